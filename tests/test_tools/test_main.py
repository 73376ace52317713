# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of python -m dito."""

import io
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from rich.table import Table

from dito import __main__ as entry
from dito import cli
from dito.apis import official
from dito.apis.similarity import WINDOWS
from dito.cli.errors import ExitCode, one_sentence_errors
from dito.cli.options import data, parse, running, summary, weights
from dito.cli.options.shared import ToolParser
from dito.converters.towers import key_report
from dito.datasets import imports
from dito.datasets.prepare import LAYOUTS
from dito.datasets.shard_files import ShardOptions
from dito.datasets.symbols import SymbolsConfig
from dito.engine import interruption
from dito.evaluation.report import print_table
from dito.models.detectors import given_boxes
from dito.models.text.name_checks import TEMPLATE_SETS
from dito.reports.figures import NUM_FIGURE
from dito.utils import env
from dito.version import __version__

CONFIG = str(Path(__file__).parent / 'toy_config.py')
FROZEN = Path(__file__).parents[1] / 'data/options.txt'
# What takes seconds to import.
HEAVY = ('torch', 'mmcv', 'mmdet', 'matplotlib', 'cv2', 'scipy', 'PIL')
# Defaults that need no word. 0 equals False, so they are compared as text.
SILENT = ('None', 'False', '', '[]', '==SUPPRESS==')
OWN = ('--data', 'own.json', '--images', '.')
NAMES = ('--names', 'anchor, key, heart, star, cat')
SOME_MAP = ['a.jpg', '--text', 'a', '--checkpoint', 'b.pth']


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(['--help']) == 0
    text = capsys.readouterr().out
    assert all(f'  {tool} ' in text for tool in entry.TOOLS)
    assert entry.main([]) == 2
    assert entry.main(['--version']) == 0
    assert capsys.readouterr().out.endswith(f'dito {__version__}\n')


def test_streams_that_are_closed_or_know_few_letters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by ``>&-``, and a name in another script in an old locale."""
    for name in ('stdout', 'stderr'):
        monkeypatch.setattr(sys, name, None)
    assert entry.main(['--version']) == 0
    assert entry.main(['no-tool']) == 2
    kept = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(kept, 'ascii'))
    say = one_sentence_errors(lambda _: print('\u732b'))
    assert say([]) == 0 and kept.getvalue() == b'\\u732b\n'


def test_a_mistyped_tool_is_answered_by_close_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert entry.main(['trian']) == 2
    assert 'no tool "trian"; did you mean train' in capsys.readouterr().err
    assert entry.main(['xyz']) == 2
    assert 'dito --help' in capsys.readouterr().err


def test_every_tool_of_the_package_is_listed() -> None:
    helpers = {'__init__', 'common', 'errors', 'transfer'}
    modules = {path.stem for path in Path(cli.__path__[0]).glob('*.py')}
    mains = [entry.find_main(t) for t in entry.TOOLS if t != 'check-env']
    assert len(set(mains)) == len(mains)
    used = {main.__module__.rpartition('.')[2] for main in mains}
    assert used == modules - helpers


# ------------------------------------------------------------------ options


def options() -> str:
    """Each tool's arguments with their forms and defaults, line by line."""
    lines = []
    for tool, describe in entry.TOOLS.items():
        lines.append(f'dito {tool}')
        for action in ToolParser(tool, describe)._actions[1:]:
            names = ', '.join(action.option_strings) or action.dest
            form = action.metavar or action.choices or ''
            if not isinstance(form, str):
                form = '|'.join(form)
            # What depends on the machine is said in words.
            told = '(default' in action.help or str(action.default) in SILENT
            shown = '' if told else f'= {action.default}'
            words = (names, form, action.nargs or '', shown)
            lines.append(f'    {" ".join(str(w) for w in words if w != "")}')
    return '\n'.join(lines) + '\n'


def test_a_new_option_is_a_decision() -> None:
    assert options() == FROZEN.read_text(), (
        'The options of the tools are others. If that is meant, describe them '
        'in docs/ and run: python tests/test_tools/test_main.py'
    )


@pytest.mark.parametrize('tool', entry.TOOLS)
def test_every_tool_explains_itself(
    tool: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        entry.main([tool, '--help'])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f'usage: dito {tool} ')
    assert summary(tool) in ' '.join(text.split())
    parser = ToolParser(tool, entry.TOOLS[tool])
    for action in parser._actions:
        assert action.help, action.dest
        if str(action.default) not in SILENT:
            help_text = parser._get_formatter()._expand_help(action)
            assert '(default: ' in help_text, action.dest


def test_one_name_has_one_meaning() -> None:
    """What differs in words is another option, or is listed here."""
    by_name: dict[str, set[str]] = {}
    for tool, describe in entry.TOOLS.items():
        for action in ToolParser(tool, describe)._actions:
            for name in action.option_strings:
                text = str(action.help).split(' (default')[0]
                by_name.setdefault(name, set()).add(text)
    own_words = {
        # What is written, shown or compared is each tool's own.
        *('--out', '--out-dir', '--work-dir', '--data', '--images', '--names'),
        *('--novel', '--from', '--workers', '--img-size', '--vocabulary'),
        # An example has a name where it is detected, and none in a search.
        *('--seed', '--shard-size', '--rep-checkpoint', '--example'),
    }
    several = {name for name, texts in by_name.items() if len(texts) > 1}
    assert several == own_words


def test_defaults_are_those_of_the_package() -> None:
    """The options are read without what they are for."""
    shards = ShardOptions()
    assert data.SHARDS == {k: getattr(shards, k) for k in data.SHARDS}
    args = parse('make-symbols', [])
    assert SymbolsConfig() == SymbolsConfig(
        args.seed,
        *args.pictures,
        args.drawings,
        **{name: getattr(args, name) for name in data.SYMBOLS},
    )
    assert data.DATASETS == tuple(LAYOUTS)
    assert data.LABELS == tuple(imports.KINDS)
    assert running.SCORES == given_boxes.SCORES
    assert tuple(parse('similarity-map', SOME_MAP).windows) == WINDOWS
    assert parse('make-report', []).count == NUM_FIGURE
    assert weights.PATCH_METHODS == key_report.METHODS
    assert weights.OFFICIAL_CONFIG == official.CONFIG
    assert ExitCode.AGAIN == interruption.REQUEUE
    templates = ', '.join(sorted(TEMPLATE_SETS))
    (found,) = (
        action.help
        for action in ToolParser(
            'build-text-embeddings', weights.build_text_embeddings
        )._actions
        if action.dest == 'templates'
    )
    assert found.startswith(templates)


# ------------------------------------------------- processes of their own


def dito(*argv: str, cwd: Path | None = None) -> Any:
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, '-m', 'dito', *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_help_imports_nothing_heavy() -> None:
    """Neither of the command nor of any tool, nor what a slip needs."""
    code = f"""if True:
        import contextlib, io, sys
        sys.argv = ['dito']
        import dito.__main__ as entry
        with contextlib.redirect_stdout(io.StringIO()):
            assert entry.main(['--help']) == 0
            for tool in entry.TOOLS:
                try:
                    entry.main([tool, '--help'])
                except SystemExit as end:
                    assert end.code == 0
        try:
            entry.main(['detect', '--no-such-option'])
        except SystemExit as end:
            assert end.code == 2
        print(*sorted({set(HEAVY)!r} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == '\n', done.stdout


def test_exit_codes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """0, 1, 2 and 3; where a process need not load models, as a shell does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['dito'])
    Path('own.json').write_text(
        '{"images": [], "annotations": [], "categories": [{"id": 1}]}'
    )
    assert dito('detect', '--help').returncode == ExitCode.RIGHT
    slip = dito('check-dataset', '--data', 'own.json')
    assert slip.returncode == ExitCode.USAGE
    assert '--data and --images go together' in slip.stderr
    assert entry.main(['check-dataset', *OWN]) == ExitCode.FINDINGS
    assert 'problem' in capsys.readouterr().out
    gone = ['check-dataset', '--data', 'no', '--images', '.']
    assert entry.main(gone) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith('error: annotation file no does')


def test_exit_code_of_a_part(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / 'a.png')
    (tmp_path / 'broken.png').write_text('no picture')
    some = dito('detect', 'a.png', 'broken.png', *NAMES, cwd=tmp_path)
    assert some.returncode == ExitCode.PARTIAL, some.stderr
    assert 'error: 1 of 2 images could not be read' in some.stderr
    assert (tmp_path / 'outputs/preds/a.json').is_file()


# ------------------------------------------------------------ single tools


def test_check_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, 'main', lambda: 1)
    assert entry.main(['check-env']) == 1


def test_print_config(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, 'argv', ['dito'])
    saved = tmp_path / 'whole.py'
    assert (
        entry.main(
            [
                'print-config',
                CONFIG,
                '--cfg-options',
                'log_level=DEBUG',
                '--out',
                str(saved),
            ]
        )
        == 0
    )
    assert "log_level = 'DEBUG'" in capsys.readouterr().out
    assert Config.fromfile(saved).train_dataloader.batch_size == 2
    assert entry.main(['print-config', 'no_such_config']) == 2


def test_run_a_script(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, 'argv', ['dito'])
    monkeypatch.setattr(sys, 'path', [*sys.path])
    (tmp_path / 'beside.py').write_text('NAME = "beside"\n')
    script = tmp_path / 'script.py'
    script.write_text(
        'import sys, beside\nprint(__name__, sys.argv[1:], beside.NAME)\n'
    )
    assert entry.main(['run', str(script), '--flag', 'x']) == 0
    assert "__main__ ['--flag', 'x'] beside" in capsys.readouterr().out
    assert entry.main(['run', 'gone.py']) == 2
    assert 'no script gone.py' in capsys.readouterr().err


def long_table() -> Table:
    table = Table('name', 'number', 'what', title='A title of many words')
    table.add_row('coffee cup', '1,234,567', 'some words ' * 20)
    table.add_row('/a/path/' + 'deep/' * 12, '7', 'word')
    return table


@pytest.mark.parametrize('width', ['1', '40', '120', '300', ''])
def test_tables_are_whole_at_any_width(
    width: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv('COLUMNS', width)
    print_table(long_table())
    text = capsys.readouterr().out
    assert '…' not in text and 'A title of many words' in text
    for part in ('coffee cup', '1,234,567', '/a/path/' + 'deep/' * 12):
        assert part in text
    assert len(re.findall(r'\bsome\b', text)) == 20
    widest = max(map(len, text.splitlines()))
    if width in ('120', '300'):
        assert widest <= int(width)
    assert (widest > 300) == (width == '')


def start(folder: Path, script: str) -> subprocess.Popen:
    """Begin ``dito run`` of a script."""
    path = folder / 'script.py'
    path.write_text(script)
    return subprocess.Popen(
        [sys.executable, '-m', 'dito', 'run', str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_ctrl_c_shows_no_traceback(tmp_path: Path) -> None:
    tool = start(tmp_path, 'print("here", flush=True)\ninput()\n')
    assert tool.stdout.readline() == b'here\n'
    tool.send_signal(signal.SIGINT)
    _, said = tool.communicate(timeout=60)
    assert said == b'interrupted\n'
    assert tool.returncode == ExitCode.INTERRUPTED


def test_the_reader_of_a_pipe_may_leave(tmp_path: Path) -> None:
    """As ``| head -1`` does; more than a pipe holds is left to write."""
    tool = start(tmp_path, 'for i in range(30000): print("line", i)\n')
    assert tool.stdout.readline() == b'line 0\n'
    tool.stdout.close()
    assert tool.stderr.read() == b''
    assert tool.wait(60) == 141


if __name__ == '__main__':
    FROZEN.write_text(options())
