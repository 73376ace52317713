# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Both pretraining stages with the poolings of public towers."""

import pytest
import torch
from pretrainer_models import build, clip_cfg, make_batch, rep_cfg

TOWERS = dict(
    token=dict(
        class_token=True,
        pre_norm=True,
        patch_bias=False,
        head=dict(pool='token', out_dims=12),
    ),
    late_norm=dict(
        class_token=True, head=dict(norm=True, out_dims=12, proj_bias=True)
    ),
    attn_pool=dict(head=dict(pool='attn_pool', out_dims=12)),
)


def model_of(cfg, name):
    cfg['backbone'].update(TOWERS[name])
    cfg['backbone']['arch'] = dict(cfg['backbone']['arch'], num_layers=2)
    cfg['text_encoder']['embed_dims'] = 12
    if 'roi_head' in cfg:
        cfg['roi_head']['bbox_head']['embed_dims'] = 12
    return build(cfg)


def gradients(model):
    data = make_batch()
    data = dict(data, **model.data_preprocessor(dict(inputs=data['inputs'])))
    total, _ = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    return total


@pytest.mark.parametrize('cpe', [None, dict(up_size=16)])
@pytest.mark.parametrize('name', TOWERS)
def test_stage_1_trains_all_of_the_tower(name, cpe):
    model = model_of(clip_cfg(cpe=cpe), name).train()
    assert torch.isfinite(gradients(model))
    assert all(p.requires_grad for p in model.backbone.parameters())


@pytest.mark.parametrize('name', TOWERS)
def test_image_embedding_is_the_towers(name):
    model = model_of(clip_cfg(), name).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        got, want = model(image), model.backbone.embed(image)
    assert got.shape == (2, 12) and got.equal(want)


@pytest.mark.parametrize('name', TOWERS)
def test_stage_2_trains_heads_alone(name):
    model = model_of(rep_cfg(), name).train()
    assert torch.isfinite(gradients(model))
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_mosaics_need_averages():
    with pytest.raises(ValueError, match="pools by 'token'; leave mosaic"):
        model_of(clip_cfg(mosaic=dict()), 'token')
