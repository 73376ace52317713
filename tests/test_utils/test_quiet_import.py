# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of importing without one printed line."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dito.utils import compat as quiet_import
from dito.utils.compat import without_lines

EVERYTHING = """
import importlib, pkgutil, dito
for module in pkgutil.walk_packages(dito.__path__, 'dito.'):
    if not module.name.endswith('__main__'):
        importlib.import_module(module.name)
"""


def test_only_the_lines_are_left_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'talks.py').write_text(
        'print("first")\nprint("noise")\nprint("noise, but more")\n'
        'print("other")\n'
    )
    with without_lines('noise', 'other'):
        importlib.import_module('talks')
    assert capsys.readouterr().out == 'first\nnoise, but more\n'


def test_a_failure_stays_and_so_does_what_was_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'fails.py').write_text('print("before")\nraise OSError("x")\n')
    with pytest.raises(OSError, match='x'), without_lines('noise'):
        importlib.import_module('fails')
    assert capsys.readouterr().out == 'before\n'


def test_importing_dito_prints_nothing() -> None:
    done = subprocess.run(
        [sys.executable, '-c', EVERYTHING],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == done.stderr == ''


def test_mmpretrain_beside_transformers_5(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dependency = SimpleNamespace(WITH_MULTIMODAL=True)
    monkeypatch.setitem(sys.modules, 'mmpretrain.utils.dependency', dependency)
    monkeypatch.setattr(quiet_import.metadata, 'version', lambda name: '4.57')
    assert not quiet_import.leave_out_multimodal()
    assert dependency.WITH_MULTIMODAL
    monkeypatch.setattr(quiet_import.metadata, 'version', lambda name: '5.24')
    assert quiet_import.leave_out_multimodal()
    assert not dependency.WITH_MULTIMODAL
