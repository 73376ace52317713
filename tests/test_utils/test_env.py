# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of the environment check."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dito.utils import env

ROOT = Path(__file__).parents[2]


def test_this_environment_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert env.main() == 0
    text = capsys.readouterr().out
    assert 'DITO can run here.' in text and 'FAIL' not in text


def test_tested_versions_are_the_constraints() -> None:
    text = (ROOT / 'requirements' / 'constraints.txt').read_text()
    pins = dict(re.findall(r'^([\w-]+)==(\S+)$', text, re.MULTILINE))
    for names, version in env.TESTED.items():
        assert pins[names[0]] == version, names[0]


def test_bounds_are_the_requirements() -> None:
    text = (ROOT / 'requirements' / 'runtime.txt').read_text()
    for name, (low, high, cause) in env.BOUNDS.items():
        wanted = f'>={low}' + (f',<{high}' if high else '')
        assert re.search(rf'^{re.escape(name + wanted)}$', text, re.M), name
        assert cause
    setup = (ROOT / 'setup.cfg').read_text()
    (low, high), makefile = env.PYTHONS, (ROOT / 'Makefile').read_text()
    assert f'>={low[0]}.{low[1]},<{high[0]}.{high[1] + 1}' in setup
    assert f'{low} <= found <= {high}' in makefile
    for minor in range(low[1], high[1] + 1):
        assert f'Python :: 3.{minor}\n' in setup


@pytest.mark.parametrize(
    'version,status',
    [
        ('1.22.4', 'FAIL'),
        ('1.23', 'note'),
        ('2.2.6', 'ok'),
        ('2.5.5', 'note'),
        ('3.0.0rc1', 'FAIL'),
    ],
)
def test_versions_outside_the_bounds(
    version: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        env, '_version', lambda n: version if n[0] == 'numpy' else None
    )
    found = {check.name: check for check in env.check_versions()}['numpy']
    assert found.status == status
    if status == 'FAIL':
        assert '1.23 or newer, below 3 is needed' in found.text
        assert found.remedy == 'pip install numpy==2.2.6'


@pytest.mark.parametrize('module', ['numpy', 'torch', 'mmdet', 'mmengine'])
def test_where_dito_cannot_be_imported(tmp_path: Path, module: str) -> None:
    (tmp_path / f'{module}.py').write_text('raise ImportError("gone")\n')
    package = Path(env.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, '-m', 'dito', 'check-env'],
        env={**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{package}'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr == ''
    assert 'FAIL  dito ' in done.stdout and 'gone' in done.stdout
    assert 'keep DITO from running' in done.stdout


def test_missing_and_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {'torch': '2.11.0+cpu', 'numpy': '1.26.4', 'mmdet': '3.3.0'}

    def version(names: Any) -> Any:
        return next((versions[n] for n in names if n in versions), None)

    monkeypatch.setattr(env, '_version', version)
    found = {check.name: check for check in env.check_versions()}
    assert found['torch'].status == env.OK
    assert found['numpy'].status == env.NOTE
    assert 'numpy==2.2.6' in found['numpy'].remedy
    assert found['onedl-mmdetection'].text.startswith('3.3.0')
    assert found['lvis'].status == env.FAIL and found['lvis'].remedy
    assert env.check_duplicates() == []
    versions['onedl-mmdetection'] = '3.5.1'
    (found,) = env.check_duplicates()
    assert found.status == env.FAIL
    assert 'pip uninstall -y mmdet onedl-mmdetection' in found.remedy


def test_python_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Version(tuple):
        pass

    monkeypatch.setattr(sys, 'version_info', Version((3, 9, 1, 'final', 0)))
    assert env.check_python()[0].status == env.FAIL
    monkeypatch.setattr(sys, 'version_info', Version((3, 12, 1, 'final', 0)))
    monkeypatch.setattr(env.importlib.util, 'find_spec', lambda name: None)
    assert env.check_python()[0].remedy == 'pip install setuptools'


def broken(monkeypatch: pytest.MonkeyPatch, module: str, text: str) -> None:
    """Make one module fail to import."""
    real = env._import_error

    def fake(name: str, function: str | None = None) -> Any:
        return ImportError(text) if name == module else real(name)

    monkeypatch.setattr(env, '_import_error', fake)


def test_opencv_without_libgl(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, 'cv2', 'libGL.so.1: cannot open shared object file')
    (check,) = env.check_opencv()
    assert check.status == env.FAIL
    assert 'opencv-python-headless' in check.remedy
    assert 'libgl1' in check.remedy


@pytest.mark.parametrize(
    'module, group',
    [
        ('cv2', env.check_opencv),
        ('torch', env.check_torch),
        ('mmcv', env.check_mmcv_ops),
        ('numpy', env.check_lvis),
        ('dito', env.check_dito),
    ],
)
def test_broken_modules_have_a_remedy(
    module: str, group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, module, 'first line\nsecond line')
    check = group()[-1]
    assert check.status == env.FAIL and check.remedy
    assert 'first line' in check.text and 'second' not in check.text


def test_torchvision_of_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:

    def nms(*args: Any) -> None:
        raise RuntimeError('operator torchvision::nms does not exist')

    monkeypatch.setitem(
        sys.modules,
        'torchvision',
        SimpleNamespace(ops=SimpleNamespace(nms=nms)),
    )
    check = env.check_torch()[-1]
    assert check.status == env.FAIL and 'torchvision' in check.remedy


def test_devices_that_are_not_there() -> None:
    env.require_device(None)
    env.require_device('cpu')
    with pytest.raises(ValueError, match=r"The device 'gpu' cannot .* cpu,"):
        env.require_device('gpu')


def test_report_counts_problems() -> None:
    text = env.format_report(
        [
            env.Check('a', env.OK, 'fine'),
            env.Check('bb', env.FAIL, 'broken', 'mend it'),
        ]
    )
    assert text.splitlines() == [
        '  ok  a   fine',
        'FAIL  bb  broken',
        '          -> mend it',
        '1 problem(s) keep DITO from running.',
    ]
