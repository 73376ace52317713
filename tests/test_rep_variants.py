# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Stage 2's variants train what they should and start the detector."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from dito.engine.hooks.load_report_hook import (
    LoadReport,
    fit_state_dict,
    under,
)
from dito.models.pretrainers import BatchPlace
from dito.models.text import DITOTextEncoder

ROOT = Path(__file__).parents[1] / 'configs'
TEXTS = ['a photo of a red star', 'a blue anchor', 'an old green key']
# What the detector begins at random, besides masks and projection.
VARIANTS = {
    'full': [],
    'fpn': ['rpn_head', 'roi_head.bbox_head'],
    'fpn-head': ['rpn_head'],
    'global-avg': [],
    'global-max': [],
    'avg': [],
    'max-all': [],
}
FULL = {
    'ablations/rep_symbols_full.py': 'symbols/rep_symbols.py',
    'ablations/rep_vitl16_laion2b_full.py': 'pretrain/rep_vitl16_laion2b.py',
}
LEVELS = [f'loss_p{i}' for i in (2, 3, 4, 5)]


def read(name, ids=None):
    # The full method is no variant but what they inherit from.
    name = FULL.get(name, name)
    cfg = Config.fromfile(ROOT / name)
    init_default_scope(cfg.default_scope)
    cfg.model.text_encoder.token_ids = ids
    return cfg


@pytest.fixture(scope='module')
def ids():
    return DITOTextEncoder.collect_token_ids(TEXTS)


@pytest.fixture(scope='module')
def detector(ids):
    cfg = read('ablations/rovit_symbols_rep.py', ids)
    return cfg, MODELS.build(cfg.model)


@pytest.mark.parametrize('variant', list(VARIANTS))
def test_variant_trains_and_starts_the_detector(variant, ids, detector):
    cfg = read(f'ablations/rep_symbols_{variant}.py', ids)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    assert not model.backbone.training and not model.text_encoder.training
    values = model(
        torch.randn(3, 3, 64, 64),
        TEXTS,
        place=BatchPlace(0, 0, 0, 3),
        mode='loss',
    )
    loss, _ = model.parse_losses(values)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if name.startswith(('backbone.', 'text_encoder.')):
            assert not parameter.requires_grad, name
    trained = {
        n.split('.')[0] for n, p in model.named_parameters() if p.requires_grad
    }
    assert {'neck', 'logit_scale'} <= trained
    logged_as_promised(variant, values)
    fits(model, detector, VARIANTS[variant])


def logged_as_promised(variant, values):
    levels = ['loss_all'] if variant == 'max-all' else LEVELS
    rpn = [] if variant in ('fpn', 'fpn-head') else ['loss_rpn']
    assert {n for n in values if 'loss' in n} == {*levels, *rpn}
    for name in levels:
        assert 0 <= values[name.replace('loss', 'recall')] <= 1
    assert ('rpn_target' in values) == bool(rpn)
    wins = [values[n].item() for n in values if n.startswith('win_')]
    boxes_compete = variant in ('full', 'fpn-head', 'max-all')
    assert len(wins) == 3 * boxes_compete
    assert sum(wins) == pytest.approx(1.0 * boxes_compete)


def fits(model, detector, random):
    """The report of loading names what starts at random, and only that."""
    cfg, target = detector
    state = fit_state_dict(target, dict(state_dict=model.state_dict()))
    report = LoadReport.compare(target.state_dict(), state)
    hook_cfg = next(
        h for h in cfg.custom_hooks if h.type == 'DITOLoadReportHook'
    ).to_dict()
    expected = [*hook_cfg['allowed_missing'], *random]
    assert all(under(key, expected) for key in report.missing)
    for part in random:
        assert any(under(key, (part,)) for key in report.missing)
    assert not report.mismatched
    assert set(report.unused) <= {'logit_scale', 'level_proj.weight'}
    HOOKS.build(dict(hook_cfg, allowed_missing=expected))._check(
        target, report, True
    )
    if random:
        with pytest.raises(ValueError, match='must get from the checkpoint'):
            HOOKS.build(hook_cfg)._check(target, report, True)


@pytest.mark.parametrize('variant', list(VARIANTS))
def test_large_variant_is_the_small_one(variant):
    """The same difference to the full method at both sizes."""
    small = read(f'ablations/rep_symbols_{variant}.py').model
    large = read(f'ablations/rep_vitl16_laion2b_{variant}.py').model
    for key in ('type', 'pooling', 'levels', 'rpn_loss_weight'):
        assert small.get(key) == large.get(key), key
    assert (small.get('rpn_head') is None) == (large.get('rpn_head') is None)
    if variant != 'fpn':
        counts = large.regions.num_regions
        # Proportional to the side of the map: half of it, half the boxes.
        assert all(
            a == 2 * b for a, b in zip(counts, counts[1:], strict=False)
        )
        assert [c / counts[0] for c in counts] == [
            c / small.regions.num_regions[0] for c in small.regions.num_regions
        ]


@pytest.mark.parametrize(
    'name,loss',
    [('focal', 'DITOFocalContrastiveLoss'), ('sigmoid', 'DITOSigmoidLoss')],
)
def test_other_losses_of_stage_one(name, loss):
    cfg = read(f'pretrain/clip_vitl16_laion2b_{name}.py')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(model.loss).__name__ == loss
    assert (model.logit_bias is not None) == (name == 'sigmoid')
    # Each pair counts as in InfoNCE, at the batch of the schedule.
    assert model.loss.denominator(16384) == 16384
    plain = read('pretrain/clip_vitl16_laion2b.py')
    assert plain.model.loss.type == 'DITOContrastiveLoss'
    assert cfg.train_dataloader == plain.train_dataloader
