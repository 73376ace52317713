# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Configs of public towers fit what the converter makes of the models."""

import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from dito.converters.towers import convert_tower
from dito.models.text.text_tower import resolve_text_arch

sys.path.append(str(Path(__file__).parent / 'test_utils' / 'test_towers'))
from tower_files import make_meta_source  # noqa: E402

ROOT = Path(__file__).parents[1] / 'configs'
TOWERS = {'openclip': 'ViT-B-16', 'siglip': 'ViT-B-16-SigLIP'}


def read(name):
    cfg = Config.fromfile(ROOT / name)
    init_default_scope(cfg.default_scope)
    cfg.model.pop('teacher', None)
    return cfg


@pytest.mark.parametrize('name', TOWERS)
def test_both_stages_take_the_converted_tower(name):
    with torch.device('meta'):
        tower = convert_tower(make_meta_source(TOWERS[name]))
        rep_cfg = read(f'pretrain/rep_vitb16_{name}.py')
        cfg = read(f'dito_vitb_lvis_{name}.py')
        rep, detector = (MODELS.build(c.model) for c in (rep_cfg, cfg))
    shapes = [
        {k: v.shape for k, v in x.items()}
        for x in (tower.state, rep.state_dict(), detector.state_dict())
    ]
    first, second, third = shapes
    assert all(second[k] == shape for k, shape in first.items())
    assert all(
        k in ('logit_scale', 'logit_bias') or third[k] == shape
        for k, shape in second.items()
    )
    for model in (rep, detector):
        native = MODELS.build(tower.backbone)
        # The same arithmetic, not only the same shapes.
        assert model.backbone.norm.eps == native.norm.eps
        # With the arguments: GELU is exact or approximate.
        assert repr(model.backbone.blocks[0].mlp.act) == repr(
            native.blocks[0].mlp.act
        )
        assert (model.backbone.head.pool, model.backbone.head.dense) == (
            native.head.pool,
            native.head.dense,
        )
        assert (
            resolve_text_arch(model.text_encoder.arch)
            == (tower.text_encoder['arch'])
        )
        assert (
            model.text_encoder.context_length
            == (tower.text_encoder['context_length'])
        )
        assert not any(
            p.requires_grad for p in model.backbone.head.parameters()
        )
    assert detector.roi_head.bbox_head.embed_dims == (
        detector.backbone.head.out_dims
    )


@pytest.mark.parametrize('name', TOWERS)
def test_stages_follow_each_other(name):
    rep, cfg = (
        read(n)
        for n in (
            f'pretrain/rep_vitb16_{name}.py',
            f'dito_vitb_lvis_{name}.py',
        )
    )
    assert cfg.load_from == f'work_dirs/rep_vitb16_{name}/iter_30000.pth'
    whole = Config.fromfile(ROOT / f'dito_vitb_lvis_{name}.py')
    assert whole.model.teacher.checkpoint == cfg.load_from
    assert rep.load_from == f'pretrained/vitb16_{name}.safetensors'
    mean = rep.model.data_preprocessor.get(
        'mean', cfg.model.data_preprocessor.mean
    )
    assert mean == cfg.model.data_preprocessor.mean
    layer = cfg.model.roi_head.vlm_roi_extractor.roi_layer
    assert layer.output_size * layer.sampling_ratio == 14 and layer.aligned
