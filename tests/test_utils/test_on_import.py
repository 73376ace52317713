# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What ``import dito`` leaves for later is there when it is asked for."""

import importlib
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import mmdet.registry
import pytest
from mmengine.registry import Registry, root

import dito
from dito.utils.on_import import after_import, around_import, stand_in

ALONE = """
import sys
import dito
heavy = {'torch', 'mmengine', 'mmcv', 'mmdet', 'numpy'} & set(sys.modules)
assert not heavy, heavy

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
assert 'mmdet.models' not in sys.modules
init_default_scope('mmdet')
import torch
tower = dict(type='DITOViT', img_size=32,
             arch=dict(embed_dims=8, num_layers=1, num_heads=1))
with torch.device('meta'):  # what is imported now makes no tensors
    assert next(MODELS.build(tower).parameters()).is_meta
tower = MODELS.build(tower)
assert type(tower) is dito.models.DITOViT
assert 'dito.engine' not in sys.modules
assert Config.fromfile('inherits.py').model.type == 'DITO'

from mmengine.runner.checkpoint import load_checkpoint
try:
    load_checkpoint(tower, 'program.pth')
except ValueError as error:
    assert 'refused' in str(error), error
else:
    raise AssertionError('the file was unpickled')
assert dito.models.DITO.hub().__name__ == 'dito.apis.hub'
"""
AFTERWARDS = """
import sys
from mmdet.registry import HOOKS, RUNNERS
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, STRATEGIES
import mmengine.runner
assert STRATEGIES.get('DITOFSDPStrategy') is None  # has looked, and found none
Config.fromfile('imports.py')
import mmdet.models  # needs operators of mmcv
for kind, name in ((STRATEGIES, 'DITOFSDPStrategy'),
                   (RUNNERS, 'DITOFlexibleRunner'),
                   (FUNCTIONS, 'image_text_collate'),
                   (HOOKS, 'dito.DITOCheckpointHook')):
    assert kind.get(name).__module__.startswith('dito.'), name
"""


def run(program: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, '-c', program],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_dito_alone_is_enough_to_build(tmp_path: Path) -> None:
    import torch

    (tmp_path / 'inherits.py').write_text(
        "_base_ = 'dito::_base_/../dito_vitl_lvis.py'\n"
    )
    torch.save(dict(state_dict={}, program=print), tmp_path / 'program.pth')
    run(ALONE, tmp_path)


def test_registries_that_were_used_before_look_again(tmp_path: Path) -> None:
    (tmp_path / 'imports.py').write_text(
        "custom_imports = dict(imports=['dito'])\n"
    )
    run(AFTERWARDS, tmp_path)


def test_every_registry_knows_where_its_classes_are() -> None:
    dito.register()
    seen = 0
    for registry in (*vars(root).values(), *vars(mmdet.registry).values()):
        if not isinstance(registry, Registry):
            continue
        for name, found in registry.module_dict.items():
            package = '.'.join(found.__module__.split('.')[:2])
            if package.startswith('dito.'):
                assert package in registry._locations, name
                seen += 1
    assert seen > 50


def test_packages_are_attributes() -> None:
    for package in dito._REGISTERED:
        assert getattr(dito, package) is sys.modules[f'dito.{package}']
    with pytest.raises(AttributeError, match="'dito' has no attribute 'no"):
        _ = dito.nothing


def test_actions_follow_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'late.py').write_text('value = 1\n')
    seen = []
    after_import('late', lambda: seen.append(sys.modules['late'].value))
    assert seen == []
    late = importlib.import_module('late')
    assert seen == [1]
    assert late.__loader__.get_source('late') == 'value = 1\n'
    after_import('late', lambda: seen.append(2))
    assert seen == [1, 2]
    around_import('absent', nullcontext)
    with pytest.raises(ModuleNotFoundError, match='absent'):
        importlib.import_module('absent')


def test_a_stand_in_is_for_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'present.py').write_text('real = True\n')
    for name in ('present', 'missing'):
        stand_in(name, lambda: ModuleType('made'))
    assert importlib.import_module('present').real
    assert not hasattr(importlib.import_module('missing'), 'real')


@pytest.mark.parametrize('name', ['config_finder', 'configs', 'checkpoint'])
def test_a_module_may_be_the_first_import(name: str) -> None:
    subprocess.run(
        [sys.executable, '-c', f'import dito.utils.{name}'], check=True
    )
