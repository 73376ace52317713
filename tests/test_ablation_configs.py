# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Rows of the ablation tables differ in what they say, and in that alone."""

import contextlib
import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from dito.engine.hooks.load_report_hook import LoadReport, under
from dito.models import DITOViT
from dito.reports.ablation_runner import run_config
from dito.reports.ablation_tables import RUNS
from dito.utils.configs import list_configs

ROOT = Path(__file__).parents[1] / 'configs'
# What each row changes against the baseline, by the name of its config.
ROWS = {
    'swl': {'shift': 'swl'},
    'swin': {'shift': 'swin'},
    'global': {'window': None},
    'l0': {'global_layers': 0},
    'l0_swl': {'global_layers': 0, 'shift': 'swl'},
    'l1': {'global_layers': 1},
    'l1_swl': {'global_layers': 1, 'shift': 'swl'},
    'l2': {'global_layers': 2},
    'l2_swl': {'global_layers': 2, 'shift': 'swl'},
    'l12': {'global_layers': 12},
    'l12_swl': {'global_layers': 12, 'shift': 'swl'},
    'l24_swl': {'global_layers': 'all', 'shift': 'swl'},
    'rep': {},
    'fd': {},
}
BASE = dict(
    rovit_symbols='ablations/rovit_symbols.py',
    rovit_vitl_lvis='rovit_vitl_lvis.py',
)
CASES = [
    (base, row)
    for base in BASE
    for row in ROWS
    if (ROOT / f'ablations/{base}_{row}.py').is_file()
]


def plain(name):
    return Config.fromfile(ROOT / name).to_dict()


def test_all_rows_of_the_paper_are_there():
    rows = {row for base, row in CASES if base == 'rovit_vitl_lvis'}
    assert rows == {
        'swl',
        'swin',
        'global',
        'l0',
        'l0_swl',
        'l12',
        'l12_swl',
        'l24_swl',
        'rep',
        'fd',
    }


@pytest.mark.parametrize('base,row', CASES)
def test_a_row_changes_what_it_says(base, row):
    baseline, cfg = plain(BASE[base]), plain(f'ablations/{base}_{row}.py')
    assert cfg['model'].pop('backbone') == {
        **baseline['model'].pop('backbone'),
        **ROWS[row],
    }
    if row == 'rep':
        for key in ('load_from', 'custom_hooks'):
            assert cfg.pop(key) != baseline.pop(key)
    if row == 'fd':
        assert cfg['model'].pop('teacher')['checkpoint'] == cfg['load_from']
        assert baseline['model'].pop('teacher') is None
        assert cfg['model']['roi_head'].pop('loss_distill')
        assert baseline['model']['roi_head'].pop('loss_distill') is None
    assert cfg == baseline


@pytest.mark.parametrize(
    'base,dito,no_fd',
    [
        (
            'ablations/rovit_symbols.py',
            'symbols/dito_symbols.py',
            'ablations/dito_symbols_no-fd.py',
        ),
        (
            'rovit_vitl_lvis.py',
            'dito_vitl_lvis.py',
            'ablations/dito_vitl_lvis_no-fd.py',
        ),
    ],
)
def test_the_whole_is_its_parts(base, dito, no_fd):
    """Table 4a: baseline + REP + SWL, then + FD."""
    rovit, whole, parts = plain(base), plain(dito), plain(no_fd)
    assert rovit['optim_wrapper'] == whole['optim_wrapper']
    assert rovit['train_cfg'] == whole['train_cfg'] == parts['train_cfg']
    assert parts['load_from'] == whole['load_from'] != rovit['load_from']
    assert parts['model']['teacher'] is None
    assert parts['model']['roi_head']['loss_distill'] is None
    rovit['model']['backbone']['shift'] = 'swl'
    assert parts['model'] == rovit['model']
    whole['model'].update(teacher=None)
    whole['model']['roi_head']['loss_distill'] = None
    assert whole['model'] == rovit['model']


@pytest.mark.parametrize(
    'name', ['fvlm_vitl_lvis.py', 'ablations/fvlm_symbols.py']
)
def test_frozen_backbone(name):
    backbone = Config.fromfile(ROOT / name).model.backbone
    with torch.device('meta'):
        model = DITOViT(**{k: v for k, v in backbone.items() if k != 'type'})
    assert not [n for n, p in model.named_parameters() if p.requires_grad]


@pytest.mark.parametrize('data', ['symbols', 'lvis'])
def test_what_the_rows_train(data):
    """All but the text tower; the projection with FD; two learning rates."""
    names = sorted({run.configs[data] for run in RUNS.values()})
    factor = dict(symbols=0.1, lvis=0.6)[data]
    for name in names:
        cfg = Config.fromfile(ROOT / f'{name}.py')
        init_default_scope(cfg.default_scope)
        if data == 'lvis':
            # The same as in symbols, but slow to build.
            cfg.model.text_encoder = None
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert {n.split('.')[0] for n in trained} == {
            'backbone',
            'neck',
            'rpn_head',
            'roi_head',
        }, name
        names_of_all = {n for n, _ in model.named_parameters()}
        assert names_of_all - trained == {
            n for n in names_of_all if n.startswith('text_encoder.')
        }
        # FD is a teacher, its loss and a projection: all or none.
        with_fd = name.endswith(('_fd', 'dito_symbols', 'dito_vitl_lvis'))
        assert (model._teacher is not None) == with_fd, name
        assert ('roi_head.vlm_proj.weight' in trained) == with_fd
        assert (model.roi_head.loss_distill is not None) == with_fd
        # No row has the release's frozen backbone at inference.
        assert model.vlm_backbone is None
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        rates = {
            id(p): g['lr'] for g in wrapper.param_groups for p in g['params']
        }
        base = cfg.optim_wrapper.optimizer.lr
        for key, p in model.named_parameters():
            # The paper adds the projection to the backbone.
            slow = key.startswith(('backbone.', 'roi_head.vlm_proj.'))
            assert key not in trained or rates[id(p)] == pytest.approx(
                base * (factor if slow else 1)
            ), key


def test_all_layers_global_leaves_nothing_to_shift():
    arch = dict(embed_dims=16, num_layers=2, num_heads=2)
    towers = [
        DITOViT(arch, 8, img_size=32, **kwargs).eval()
        for kwargs in (
            dict(window=None),
            dict(window=dict(grid=2), global_layers='all'),
            dict(window=dict(grid=2), global_layers='all', shift='swl'),
        )
    ]
    for tower in towers[1:]:
        tower.load_state_dict(towers[0].state_dict())
    image = torch.randn(1, 3, 40, 32)
    with torch.no_grad():
        first, *others = (tower(image)[0] for tower in towers)
    assert all(torch.equal(first, other) for other in others)


STAGES_2 = [
    p.stem.removeprefix('rep_vitl16_laion2b_')
    for p in sorted(ROOT.glob('ablations/rep_vitl16_laion2b_*.py'))
]


@pytest.mark.parametrize('kind', STAGES_2)
def test_detection_goes_on_from_each_stage_2(kind):
    """Tables 4b and 4c: by the row's config and by the ablation's."""
    with torch.device('meta'):
        rep = build(f'ablations/rep_vitl16_laion2b_{kind}')
        state = rep.state_dict()
        name = f'ablations/rovit_vitl_lvis_rep-{kind}'
        detector = build(name)
    report = LoadReport.compare(detector.state_dict(), state)
    run = next(
        run
        for run in RUNS.values()
        if (run.pretraining or {}).get('lvis', '').endswith(f'_{kind}')
    )
    own = Config.fromfile(ROOT / f'{name}.py')
    assert own.load_from == f'work_dirs/rep_vitl16_laion2b_{kind}/' + (
        'iter_30000.pth'
    )
    made = run_config(run.configs['lvis'], 1, 0, 'x.pth', run.start_anew)
    plain = Config.fromfile(ROOT / 'ablations/rovit_vitl_lvis_rep.py')
    anew = kind in ('fpn', 'fpn-head')
    for cfg in (own, made, plain):
        (options,) = (
            h for h in cfg.custom_hooks if h.type == 'DITOLoadReportHook'
        )
        hook = HOOKS.build(options)
        with (
            pytest.raises(ValueError, match='that this stage must get')
            if anew and cfg is plain
            else contextlib.nullcontext()
        ):
            hook._check(detector, report, training=True)
    # Nothing of the stage before is lost, nor starts anew unsaid.
    hook = HOOKS.build(own.custom_hooks[1])
    assert all(under(k, hook.allowed_unused) for k in report.unused)
    assert all(under(k, hook.allowed_missing) for k in report.missing)
    assert not report.mismatched


def build(name):
    cfg = Config.fromfile(ROOT / f'{name}.py')
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def test_the_list_of_configs_names_them_all():
    text = (ROOT / 'README.md').read_text()
    listed = re.findall(r'^\| `([^`]+)` \|', text, re.MULTILINE)
    assert sorted(listed) == sorted(list_configs())
    assert len(set(listed)) == len(listed)
