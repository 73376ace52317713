# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of the search for config files."""

import subprocess
import sys
from pathlib import Path

import pytest
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from dito.engine.hooks import DITOLoadReportHook, DITOVocabularyHook
from dito.models import SimpleFPN
from dito.utils import configs as config_finder
from dito.utils.configs import find_config, list_configs


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs, as an installed package has them."""
    root = tmp_path / 'site' / 'dito' / '.mim' / 'configs'
    for name in (
        'big.py',
        'sub/small.py',
        'sub/same.py',
        'other/same.py',
        '_base_/part.py',
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('x = 1\n')
    monkeypatch.setattr(config_finder, 'PACKAGE', root.parents[1])
    (tmp_path / 'work').mkdir()
    monkeypatch.chdir(tmp_path / 'work')
    return root


def test_names(root: Path) -> None:
    assert list(list_configs()) == [
        'big',
        'other/same',
        'sub/same',
        'sub/small',
    ]
    for name in ('big', 'big.py', 'configs/big.py', 'dito::big.py'):
        assert find_config(name) == root / 'big.py'
    for name in ('small', 'sub/small.py', './configs/sub/small.py'):
        assert find_config(name) == root / 'sub' / 'small.py'


def test_a_path_goes_first(root: Path) -> None:
    Path('big.py').write_text('x = 2\n')
    assert find_config('big.py') == Path('big.py')


def test_errors(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match='close matches: sub/small'):
        find_config('smal')
    with pytest.raises(FileNotFoundError, match='for the names'):
        find_config('qqqqqqqq')
    with pytest.raises(ValueError, match='other/same, sub/same; give one'):
        find_config('same')
    Path('folder').mkdir()
    with pytest.raises(ValueError, match='is a folder'):
        find_config('folder')


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.jpg', b'\xff\xd8', 'a.jpg is no config, which ends in .py'),
        ('a.py', b'model = dict(', 'is no Python .*never closed'),
        ('a.py', b'a = 1\0', 'is no Python'),
        ('a.json', b'[1]', 'holds a list, not settings'),
        ('a.json', b'{', 'is not valid JSON'),
        ('a.yaml', b'a: [', 'is no YAML of plain values'),
        ('a.yaml', b'', 'holds a NoneType, not settings'),
    ],
)
def test_files_that_are_no_configs(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        find_config(tmp_path / name)


def test_the_reader_of_files_may_be_imported_first() -> None:
    """It imports mmengine, whose import brings in the finder of configs."""
    line = 'from dito.utils.files import read_json'
    subprocess.run([sys.executable, '-c', line], check=True, timeout=300)


def test_without_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_finder, 'PACKAGE', tmp_path / 'a' / 'b')
    with pytest.raises(FileNotFoundError, match='install the package again'):
        list_configs()


def test_mmengine_resolves_the_package(tmp_path: Path) -> None:
    mim = config_finder.PACKAGE / '.mim' / 'configs'
    if not mim.is_dir():
        pytest.skip('the package is not installed, only on the path')
    name = '_base_/default_runtime.py'
    wanted = Config.fromfile(mim / name)
    assert get_config(f'dito::{name}').to_dict() == wanted.to_dict()
    own = tmp_path / 'own.py'
    own.write_text(f"_base_ = 'dito::{name}'\nlog_level = 'DEBUG'\n")
    cfg = Config.fromfile(own)
    assert cfg.log_level == 'DEBUG'
    # As if it were inherited by its path.
    assert cfg.custom_hooks == wanted.custom_hooks
    hook, report = cfg.custom_hooks
    init_default_scope('mmdet')
    built = HOOKS.build(hook)
    assert isinstance(built, DITOVocabularyHook)
    assert isinstance(HOOKS.build(report), DITOLoadReportHook)
    neck = dict(
        type='SimpleFPN', in_channels=8, out_channels=8, _scope_='dito'
    )
    assert isinstance(MODELS.build(neck), SimpleFPN)
    loss = dict(type='CrossEntropyLoss', _scope_='dito')
    assert type(MODELS.build(loss)).__module__.startswith('mmdet')
