# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Commands in the docs are commands: tools, options and files exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from dito.cli.options import TOOLS, parse

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    p.relative_to(ROOT).as_posix()
    for p in [
        *ROOT.glob('*.md'),
        *(ROOT / 'docs').rglob('*.md'),
        *(ROOT / 'configs').rglob('*.md'),
    ]
    # Commands of former versions stand in it.
    if p.name != 'CHANGELOG.md'
)
SCRIPTS = {
    'tools/train.py': 'train',
    'tools/test.py': 'test',
    'tools/detect.py': 'detect',
    'tools/quickstart.py': 'quickstart',
}
LAUNCHERS = {
    'tools/dist_train.sh': ('train', 1),
    'tools/dist_test.sh': ('test', 2),
}


def commands_of(text: str) -> Iterator[list[str]]:
    """Words of each simple command in the blocks of a page."""
    for block in re.findall(r'(?ms)^ *```(?:bash|sh|console)\n(.*?)```', text):
        for line in block.replace('\\\n', ' ').splitlines():
            for part in re.split(r'&&|\|\||\||;| do ', line):
                try:
                    words = shlex.split(part, comments=True)
                except ValueError:
                    continue  # a quotation that goes on in the next line
                while words and re.fullmatch(r'\w+=\S*', words[0]):
                    words = words[1:]
                if words:
                    yield words


def tool_call(words: list[str]) -> tuple[str, list[str]] | None:
    """Tool of this package that a command calls, and its arguments."""
    if words[0].endswith(('python', 'python3')) and len(words) > 1:
        words = words[1:]
        if words[:2] == ['-m', 'dito']:
            words = words[1:]
    name, rest = words[0], words[1:]
    rest = rest[: rest.index('>')] if '>' in rest else rest
    if name == 'dito' or name.endswith('/dito'):
        return (rest[0], rest[1:]) if rest else None
    if name in SCRIPTS:
        return SCRIPTS[name], rest
    if name in LAUNCHERS:
        tool, at = LAUNCHERS[name]
        return tool, rest[:at] + rest[at + 1 :]
    return None


def check(words: list[str]) -> None:
    """Raise what is wrong with a command; one of another project is right."""
    for word in words:
        if re.match(r'(configs|tools|tests|requirements)/[\w./-]+$', word):
            assert (ROOT / word).exists(), f'{word} does not exist'
    call = tool_call(words)
    if call is None or any('$' in word for word in words):
        return
    tool, rest = call
    if tool.startswith('-') or tool == 'TOOL' or {'...', 'TOOL'} & {*rest}:
        return
    assert tool in TOOLS, f'there is no tool {tool}'
    try:
        parse(tool, rest)
    except SystemExit as error:
        assert not error.code, f'dito {tool} refuses {shlex.join(rest)}'


@pytest.mark.parametrize('page', PAGES)
def test_commands_of_the_page(page: str) -> None:
    text = (ROOT / page).read_text(encoding='utf-8')
    for words in commands_of(text):
        check(words)


def test_enough_of_them_are_found() -> None:
    calls = [
        tool_call(words)
        for page in PAGES
        for words in commands_of((ROOT / page).read_text(encoding='utf-8'))
    ]
    assert len([call for call in calls if call]) > 60


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('dito detekt a.jpg', 'no tool detekt'),
        ('dito detect a.jpg --nams x', 'refuses a.jpg --nams x'),
        ('python tools/train.py configs/gone.py', 'does not exist'),
        ('tools/dist_train.sh configs/dito_vitl_lvis.py 8 --bad', 'refuses'),
    ],
)
def test_a_wrong_command_is_found(text: str, reason: str) -> None:
    (words,) = commands_of(f'```bash\n{text}\n```\n')
    with pytest.raises(AssertionError, match=re.escape(reason)):
        check(words)
