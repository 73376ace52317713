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

from dito.cli.options import TOOLS
from dito.cli.options.shared import ToolParser

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/paper_vs_release.md').read_text()
TABLES = PAGE.split('## Equation 2')[0].split('### What neither')[0]
# What the options of a section belong to; the detector's elsewhere.
CONFIGS = {
    'stage 1': 'pretrain/clip_vitl16_laion2b.py',
    'stage 2': 'pretrain/rep_vitl16_laion2b.py',
}


def rows_of(section):
    """Code in the last cell of every row of a section's tables."""
    cells = [
        line.split('|')[-2]
        for line in section.splitlines()
        if line.startswith('| ') and '---' not in line
    ]
    return [re.findall('`([^`]+)`', cell) for cell in cells]


ROWS = [
    (CONFIGS.get(section.splitlines()[0][-7:], 'dito_vitl_lvis.py'), row)
    for section in TABLES.split('### ')
    for row in rows_of(section)
]
OPTIONS = [
    (config, [c for c in row if re.match(r'[a-z_.0-9]+=', c)])
    for config, row in ROWS
]
OTHERS = [c for _, row in ROWS for c in row if '=' not in c]


def parse(options):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(['--cfg-options', *options]).cfg_options


def read(name='dito_vitl_lvis.py'):
    cfg = Config.fromfile(ROOT / 'configs' / name)
    init_default_scope(cfg.default_scope)
    return cfg


def test_there_are_switches():
    assert sum(len(o) for _, o in OPTIONS) > 35 and len(OTHERS) > 5
    readings = TABLES.split('## Differences')[0]
    for number in (1, 2):
        config = CONFIGS[f'stage {number}']
        assert sum(len(o) for name, o in OPTIONS if name == config) >= 3
    # Every reading says how to change it; the heads of three tables do not.
    without = [
        row
        for row in rows_of(readings)
        if not any('=' in code for code in row)
    ]
    assert without == [[]] * 3


@pytest.mark.parametrize('name, options', [row for row in OPTIONS if row[1]])
def test_a_switch_changes_the_config_and_builds(name, options):
    cfg, before = read(name), read(name)
    cfg.merge_from_dict(parse(options))
    if cfg.model.type == 'DITO':
        cfg.model.text_encoder = None
    for option in options:
        *parents, key = option.split('=')[0].split('.')
        old, new = before, cfg
        for parent in parents:
            index = int(parent) if parent.isdigit() else parent
            new = new[index]
            old = (
                old[index] if isinstance(old, list) else (old or {}).get(index)
            )
        # A value of its own, which the models below accept by name.
        assert (old or {}).get(key, 'absent') != new[key], option
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        if getattr(model, '_teacher', None) is not None:
            MODELS.build(model._teacher.cfg)
    build_optim_wrapper(model, cfg.optim_wrapper)


def test_other_switches_exist():
    for name in OTHERS:
        file = name.split()[0]
        if file == 'dito':
            _, tool, option = name.split()[:3]
            assert option in ToolParser(tool, TOOLS[tool]).format_help()
        elif file.endswith('.py'):
            assert len(list((ROOT / 'configs').rglob(Path(file).name))) == 1
        elif file.startswith('DITO'):
            assert TRANSFORMS.get(file) is not None
    for option, transform in re.findall(
        '`([a-z_]+)` of `([A-Za-z]+)`', TABLES
    ):
        pipeline = read().train_dataloader.dataset.pipeline
        assert transform in [t.type for t in pipeline]
        TRANSFORMS.build(
            {
                **next(t for t in pipeline if t.type == transform),
                option: {'recompute_bbox': True, 'ratio_range': (0.5, 1)}[
                    option
                ],
            }
        )


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
