# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A frozen backbone that gives the VLM score at inference."""

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from tiny_detector import batch, build, vocabulary

from dito.engine.hooks.load_report_hook import fit_state_dict
from dito.utils.checkpoint import save_safetensors


@pytest.fixture
def pretrained(tmp_path):
    """Weights of another backbone, in a file."""
    torch.manual_seed(7)
    state = build(mask=False).backbone.state_dict()
    path = tmp_path / 'pretrained.safetensors'
    save_safetensors({f'backbone.{k}': v for k, v in state.items()}, path)
    return str(path), state


def detector(**cfg):
    torch.manual_seed(0)
    model = build(mask=False, vlm_backbone=dict(global_layers=0, **cfg))
    model.set_vocabulary(vocabulary(3))
    return model


def predict(model):
    torch.manual_seed(1)
    results = model.eval().test_step(batch(mask=False))
    return results[0].pred_instances


def test_it_is_part_of_the_state_dict_and_frozen():
    model = detector().train()
    keys = [k for k in model.state_dict() if k.startswith('vlm_backbone.')]
    assert len(keys) == len(model.backbone.state_dict())
    assert not model.vlm_backbone.training and model.backbone.training
    assert not any(p.requires_grad for p in model.vlm_backbone.parameters())


def test_only_the_vlm_score_looks_at_it():
    model = detector()
    first = predict(model)
    ensemble = model.roi_head.ensemble
    alpha, ensemble.alpha, ensemble.beta = ensemble.alpha, 0.0, 0.0
    alone = predict(model)
    with torch.no_grad():
        for param in model.vlm_backbone.parameters():
            param.add_(torch.randn_like(param) * 0.3)
    same = predict(model)
    torch.testing.assert_close(same.scores, alone.scores)
    torch.testing.assert_close(same.bboxes, alone.bboxes)
    ensemble.alpha = alpha
    assert not torch.allclose(predict(model).scores, first.scores)


def test_it_has_the_backbones_shift_and_own_windows():
    model = detector()
    assert model.vlm_backbone.plan.shift == 'swl'
    assert model.vlm_backbone.plan.global_layers == frozenset()
    assert model.backbone.plan.global_layers == {1}


def test_training_does_not_run_it():
    model = detector()
    model.vlm_backbone.forward = None
    data = model.data_preprocessor(batch(mask=False), True)
    total, _ = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert torch.isfinite(total)


@pytest.mark.parametrize('load', ['torch', 'mmengine', 'hook', 'init'])
def test_its_weights_come_from_a_file_where_a_checkpoint_has_none(
    pretrained, load
):
    path, state = pretrained
    rest = {
        k: v
        for k, v in detector().state_dict().items()
        if not k.startswith('vlm_backbone.')
    }
    model = detector(checkpoint=path)
    if load == 'torch':
        model.load_state_dict(rest)
    elif load == 'mmengine':
        load_state_dict(model, rest, strict=True)
    elif load == 'hook':
        full = fit_state_dict(model, dict(state_dict=rest))
        assert set(full) == set(model.state_dict())
        model.load_state_dict(full)
    else:
        model.init_weights()
    for key, value in model.vlm_backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_a_checkpoint_comes_before_the_file(pretrained):
    own = detector().state_dict()
    model = detector(checkpoint='/does/not/exist.safetensors')
    model.load_state_dict(own)
    key = 'vlm_backbone.norm.weight'
    assert torch.equal(model.state_dict()[key], own[key])


def test_errors_say_what_is_wrong(pretrained):
    path, _ = pretrained
    with pytest.raises(FileNotFoundError, match='does not exist'):
        detector(checkpoint='/no/file.pth').init_weights()
    with pytest.raises(ValueError, match="starts with 'tower.'"):
        detector(checkpoint=path, prefix='tower.').init_weights()
    small = dict(embed_dims=16, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match='does not fit it'):
        detector(checkpoint=path, arch=small).init_weights()
    distill = dict(loss_distill=dict(type='DITOCosineDistillLoss'))
    with pytest.raises(ValueError, match='set one of them'):
        build(vlm_backbone=dict(), roi_head=distill)
