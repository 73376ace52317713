# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of python -m dito."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from rich.table import Table

from dito import __main__ as entry
from dito import cli
from dito.evaluation.report import print_table
from dito.utils import env
from dito.version import __version__

CONFIG = str(Path(__file__).parent / 'toy_config.py')


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(['--help']) == 0
    text = capsys.readouterr().out
    assert all(f'  {tool} ' in text for tool in entry.TOOLS)
    assert entry.main([]) == 2
    assert entry.main(['--version']) == 0
    assert capsys.readouterr().out.endswith(f'dito {__version__}\n')


def test_a_mistyped_tool_is_answered_by_close_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert entry.main(['trian']) == 2
    assert 'no tool "trian"; did you mean train' in capsys.readouterr().err
    assert entry.main(['xyz']) == 2
    assert 'dito --help' in capsys.readouterr().err


def test_every_tool_of_the_package_is_listed() -> None:
    helpers = {'__init__', 'common', 'errors', 'transfer'}
    # These compare with other libraries; they need a clone.
    helpers |= {'benchmark_contrastive', 'benchmark_image_text'}
    modules = {path.stem for path in Path(cli.__path__[0]).glob('*.py')}
    listed = set(map(entry.module_of, entry.TOOLS))
    assert listed == modules - helpers | {'check_env'}


@pytest.mark.parametrize('tool', sorted(set(entry.TOOLS) - {'check-env'}))
def test_every_tool_explains_itself(
    tool: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, 'argv', ['dito'])
    with pytest.raises(SystemExit) as stopped:
        entry.main([tool, '--help'])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert tool in text.splitlines()[0] and '--help' in text


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
                '--save-path',
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


def test_the_reader_of_a_pipe_may_leave(tmp_path: Path) -> None:
    """As ``| head -1`` does; more than a pipe holds is left to write."""
    script = tmp_path / 'talks.py'
    script.write_text('for i in range(30000): print("line", i)\n')
    tool = subprocess.Popen(
        [sys.executable, '-m', 'dito', 'run', str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert tool.stdout.readline() == b'line 0\n'
    tool.stdout.close()
    assert tool.stderr.read() == b''
    assert tool.wait(60) == 141
