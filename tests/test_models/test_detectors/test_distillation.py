# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Distillation (paper 3.4): what it compares, what it moves, what z reads."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox2roi
from tiny_detector import DIMS, batch, build, pretrained, vocabulary

DISTILL = dict(loss_distill=dict(type='DITOCosineDistillLoss'))


@pytest.fixture
def model(tmp_path):
    """A student with a projection of its own, and another tower as teacher."""
    model = build(
        mask=False,
        roi_head=DISTILL,
        teacher=dict(checkpoint=pretrained(tmp_path)),
    )
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    torch.nn.init.normal_(model.roi_head.vlm_proj.weight)
    torch.nn.init.normal_(model.roi_head.vlm_proj.bias)
    model.set_vocabulary(vocabulary(3, novel=(2,)))
    return model


def losses_of(model):
    data = model.data_preprocessor(batch(mask=False), True)
    return model(**data, mode='loss'), data['inputs']


def test_all_sampled_rois_are_compared(model):
    """Foreground, background and annotated boxes; the mean over them."""
    head, sampled = model.train().roi_head, []
    real = head.sample_rois
    head.sample_rois = lambda *args: sampled.extend(real(*args)) or sampled
    losses, inputs = losses_of(model)
    rois = bbox2roi([result.priors for result in sampled])
    assert len(rois) == sum(
        len(r.pos_priors) + len(r.neg_priors) for r in sampled
    )
    # The second image has no objects.
    assert sampled[0].pos_is_gt.any() and not len(sampled[1].pos_priors)
    assert all(len(r.neg_priors) for r in sampled)

    def means(feat):
        return head.vlm_roi_extractor((feat,), rois).flatten(1)

    with torch.no_grad():
        feat = model.backbone(inputs)[-1]
        weight, bias = head.vlm_proj.weight[:, :, 0, 0], head.vlm_proj.bias
        student = (
            torch.einsum('oc,bchw->bohw', weight, feat)
            + bias[None, :, None, None]
        )
        teacher = model._teacher(inputs)
        cosine = F.cosine_similarity(means(student), means(teacher))
    assert losses['loss_distill'].item() == pytest.approx(
        (1 - cosine).mean().item(), abs=1e-5
    )
    assert means(student).shape == (len(rois), DIMS)


def test_it_moves_backbone_and_projection_alone(model):
    losses_of(model.train())[0]['loss_distill'].backward()
    moved = {
        n.split('.')[0] if n.startswith('backbone.') else n
        for n, p in model.named_parameters()
        if p.grad is not None and p.grad.any()
    }
    assert moved == {
        'backbone',
        'roi_head.vlm_proj.weight',
        'roi_head.vlm_proj.bias',
    }
    assert all(p.grad is None for p in model._teacher.backbone.parameters())


def test_z_is_read_from_the_projected_map(model):
    """3.4: at inference the features after the projection give z."""
    head = model.eval().roi_head
    head.ensemble.alpha = head.ensemble.beta = 1.0
    # No score should be 1 up to rounding.
    head.vlm_temperature = 0.2

    def scores():
        with torch.no_grad():
            found = model.test_step(batch(mask=False))
        return [f.pred_instances.scores for f in found]

    projected, take = scores(), model.vlm_map
    # The same detector, whose map comes projected already.
    proj, head.vlm_proj = head.vlm_proj, None
    unprojected = scores()
    model.vlm_map = lambda inputs, feat: proj(take(inputs, feat))
    for found, wanted, other in zip(
        projected, scores(), unprojected, strict=True
    ):
        assert len(found) > 5
        torch.testing.assert_close(found, wanted)
        assert not torch.allclose(found, other)
