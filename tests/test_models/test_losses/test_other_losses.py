# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Focal contrastive, sigmoid and cosine distillation losses."""

import math

import pytest
import torch
from golden_arrays import ROUNDING, close, golden_cases
from mmdet.registry import MODELS
from open_clip.loss import SigLipLoss
from whole_losses import focal_of_logits

from dito.models.losses import (
    DITOCosineDistillLoss,
    DITOFocalContrastiveLoss,
    DITOSigmoidLoss,
)
from dito.models.losses.contrastive_ops import normalize


@pytest.mark.parametrize(
    'alpha, gamma, normalizer',
    golden_cases(
        'focal_contrastive', r'out/loss/alpha(.+)_gamma(.+)_norm(.+)'
    ),
)
def test_focal_equals_release(golden, alpha, gamma, normalizer) -> None:
    arrays = golden('focal_contrastive')
    key = f'alpha{alpha}_gamma{gamma}_norm{normalizer}'
    alpha, gamma = float(alpha), float(gamma)
    normalizer = None if normalizer == 'None' else float(normalizer)
    logits = torch.from_numpy(arrays['in/logits']).requires_grad_()
    targets = torch.from_numpy(arrays['in/targets'])
    loss = focal_of_logits(
        DITOFocalContrastiveLoss(alpha, gamma, normalizer), logits, targets
    )
    loss.backward()
    close(loss, arrays[f'out/loss/{key}'], ROUNDING)
    close(logits.grad, arrays[f'out/grad/{key}'], ROUNDING)


def test_focal_with_batch_axis_equals_release(golden) -> None:
    arrays = golden('focal_contrastive')
    loss = focal_of_logits(
        DITOFocalContrastiveLoss(),
        torch.from_numpy(arrays['batched/in/logits']),
        torch.from_numpy(arrays['batched/in/targets']),
    )
    close(loss, arrays['batched/out/loss'], ROUNDING)


def test_focal_of_embeddings_uses_scaled_cosines() -> None:
    image, text = torch.randn(5, 8), torch.randn(5, 8)
    loss = DITOFocalContrastiveLoss(normalizer=5.0)
    logits = 3.0 * normalize(image) @ normalize(text).t()
    torch.testing.assert_close(
        loss(image, text, torch.tensor(3.0)),
        focal_of_logits(loss, logits, torch.arange(5)),
    )


def test_focal_gradient_is_finite_where_sure() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    focal_of_logits(
        DITOFocalContrastiveLoss(gamma=0.5), logits, torch.tensor([0])
    ).backward()
    assert torch.isfinite(logits.grad).all()


def test_focal_refuses_bad_normalizer() -> None:
    with pytest.raises(ValueError, match='normalizer must be positive'):
        DITOFocalContrastiveLoss(normalizer=0.0)


def test_sigmoid_equals_open_clip() -> None:
    image, text = torch.randn(5, 8), torch.randn(5, 8)
    scale, bias = torch.tensor(6.0), torch.tensor(-4.0)
    want = SigLipLoss()(normalize(image), normalize(text), scale, bias)
    torch.testing.assert_close(
        DITOSigmoidLoss()(image, text, scale, bias), want
    )
    torch.testing.assert_close(
        DITOSigmoidLoss(logit_bias=-4.0)(image, text, scale), want
    )


def test_sigmoid_matches_naive_loop() -> None:
    image = normalize(torch.randn(3, 4, dtype=torch.float64))
    text = normalize(torch.randn(3, 4, dtype=torch.float64))
    want = 0.0
    for i in range(3):
        for j in range(3):
            z = 2.0 * float(image[i] @ text[j]) - 10.0
            sign = 1.0 if i == j else -1.0
            want += math.log1p(math.exp(-sign * z)) / 3
    got = DITOSigmoidLoss()(image, text, torch.tensor(2.0).double())
    assert got.item() == pytest.approx(want, rel=1e-12)


def test_distillation_is_mean_cosine_distance() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    teacher = torch.tensor([[3.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = DITOCosineDistillLoss(loss_weight=2.0)(student, teacher)
    assert loss.item() == pytest.approx(2.0 * (0.0 + 1.0) / 2)
    loss.backward()
    assert student.grad is not None and teacher.grad is None


def test_distillation_without_regions_is_zero_with_gradient() -> None:
    student = torch.zeros(0, 4, requires_grad=True)
    loss = DITOCosineDistillLoss()(student, torch.zeros(0, 4))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad.shape == (0, 4)


def test_distillation_refuses_other_shape() -> None:
    with pytest.raises(ValueError, match=r'\(2, 3\) and \(2, 4\)'):
        DITOCosineDistillLoss()(torch.ones(2, 3), torch.ones(2, 4))


@pytest.mark.parametrize(
    'name',
    [
        'DITOContrastiveLoss',
        'DITOCosineDistillLoss',
        'DITOFocalContrastiveLoss',
        'DITOSigmoidLoss',
    ],
)
def test_builds_from_registry(name) -> None:
    assert MODELS.build(dict(type=name, loss_weight=0.5)).loss_weight == 0.5
