# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Every switch that docs/paper_vs_release.md names is one."""

import argparse
import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS, TRANSFORMS
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/paper_vs_release.md').read_text()
TABLES = PAGE.split('## Equation 2')[0].split('### What neither')[0]
# The last cell of every row of the first three tables.
CELLS = [line.split('|')[-2].strip() for line in TABLES.splitlines()
         if line.startswith('| ') and '---' not in line]
CODE = [re.findall('`([^`]+)`', cell) for cell in CELLS]
OPTIONS = [[c for c in code if re.match(r'[a-z_.0-9]+=', c)]
           for code in CODE]
OTHERS = [c for code in CODE for c in code if '=' not in c]


def parse(options):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(['--cfg-options', *options]).cfg_options


def read():
    cfg = Config.fromfile(ROOT / 'configs/dito_vitl_lvis.py')
    init_default_scope(cfg.default_scope)
    return cfg


def test_there_are_switches():
    assert sum(map(len, OPTIONS)) > 20 and len(OTHERS) > 5


@pytest.mark.parametrize(
    'options', [o for o in OPTIONS if o], ids=lambda o: o[0])
def test_a_switch_changes_the_config_and_builds(options):
    cfg, before = read(), read()
    cfg.merge_from_dict(parse(options))
    cfg.model.text_encoder = None
    for option in options:
        *parents, key = option.split('=')[0].split('.')
        old, new = before, cfg
        for parent in parents:
            index = int(parent) if parent.isdigit() else parent
            new = new[index]
            old = old[index] if isinstance(old, list) else (old or {}).get(
                index)
        # A value of its own, which the models below accept by name.
        assert (old or {}).get(key, 'absent') != new[key], option
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        if model._teacher is not None:
            MODELS.build(model._teacher.cfg)
    build_optim_wrapper(model, cfg.optim_wrapper)


def test_other_switches_exist():
    for name in OTHERS:
        file = name.split()[0]
        if file.endswith('.py'):
            assert len([*(ROOT / 'configs').rglob(Path(file).name),
                        *(ROOT / 'tools').rglob(Path(file).name)]) == 1
        elif file.startswith('DITO'):
            assert TRANSFORMS.get(file) is not None
    for option, transform in re.findall('`([a-z_]+)` of `([A-Za-z]+)`',
                                        TABLES):
        pipeline = read().train_dataloader.dataset.pipeline
        assert transform in [t.type for t in pipeline]
        TRANSFORMS.build({**next(t for t in pipeline if t.type == transform),
                          option: {'recompute_bbox': True,
                                   'ratio_range': (0.5, 1)}[option]})


def test_what_is_the_default_where_the_paper_is_silent():
    cfg = read()
    assert cfg.model.backbone.act == 'gelu_tanh'
    for stage in ('clip', 'rep'):
        name = f'configs/pretrain/{stage}_vitl16_laion2b.py'
        other = Config.fromfile(ROOT / name).model.backbone
        assert other.act == cfg.model.backbone.act
    assert cfg.model.test_cfg.rpn.drop_duplicates
    crop = cfg.train_dataloader.dataset.pipeline[3]
    assert crop.type == 'RandomCrop' and not crop.get('recompute_bbox')
