# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Compiled parts: no graph break, and no new code for every picture."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_detector import DIMS, batch, build, vocabulary
from torch import Tensor, nn
from torch._dynamo.utils import counters


@pytest.fixture(scope='module')
def model() -> nn.Module:
    torch.manual_seed(0)
    made = build()
    made.set_vocabulary(vocabulary(3))
    return made.train()


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Count from 0, and leave no code behind."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    """How often something was compiled."""
    assert not counters['graph_break']
    return counters['stats']['unique_graphs']


def any_size(shape: tuple, *axes: int) -> Tensor:
    """A random tensor whose axes are said to change.

    Below they are 16 or more: PyTorch has another convolution on CPUs for
    fewer, and compiles twice. So it does for odd and even maps to be pooled.
    """
    made = torch.randn(shape)
    for axis in axes:
        torch._dynamo.mark_dynamic(made, axis)
    return made


def compiled(part: Any) -> Any:
    return torch.compile(part, backend='eager', fullgraph=True)


def test_backbone_is_compiled_once_a_size(model: nn.Module) -> None:
    backbone = compiled(model.backbone)
    for count, (height, width) in enumerate([(64, 64), (32, 64)], 1):
        for _ in range(2):
            images = torch.randn(2, 3, height, width)
            (got,) = backbone(images)
            torch.testing.assert_close(got, model.backbone(images)[0])
        assert graphs() == count


def test_pyramid_and_proposals_are_compiled_once(model: nn.Module) -> None:
    def part(feat: Tensor) -> Any:
        return model.rpn_head(model.neck((feat,)))

    run = compiled(part)
    for size in ((18, 20), (24, 18)):
        feat = any_size((2, DIMS, *size), 2, 3)
        for got, other in zip(run(feat), part(feat), strict=True):
            torch.testing.assert_close(got, other)
    assert graphs() == 1


def test_heads_are_compiled_once(model: nn.Module) -> None:
    def part(crops: Tensor, large: Tensor) -> Any:
        head = model.roi_head
        embeds, deltas = head.bbox_head.regions(crops)
        logits = head.bbox_head.classify(embeds)
        return logits, deltas, head.mask_head(large)

    run = compiled(part)
    for num in (17, 20, 33):
        crops, large = (
            any_size((num, 8, 7, 7), 0),
            any_size((num, 8, 14, 14), 0),
        )
        torch.testing.assert_close(run(crops, large), part(crops, large))
    assert graphs() == 1


def test_gradients_are_compiled_too(model: nn.Module) -> None:
    def loss(images: Tensor) -> Tensor:
        return model.backbone(images)[0].square().mean()

    part = torch.compile(loss, backend='aot_eager', fullgraph=True)
    images, grads = torch.randn(2, 3, 64, 64), []
    for run in (part, loss):
        model.zero_grad()
        run(images).backward()
        grads.append([p.grad.clone() for p in model.backbone.parameters()])
    for got, other in zip(*grads, strict=True):
        torch.testing.assert_close(got, other, rtol=1e-4, atol=1e-7)


def test_losses_under_bfloat16(model: nn.Module) -> None:
    data = model.data_preprocessor(batch(mask=True), True)
    values = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            losses = model(**data, mode='loss')
        values.append(model.parse_losses(losses)[1])
    exact, mixed = values
    for name in ('loss_rpn_center', 'loss_rpn_bbox', 'loss_mask', 'loss'):
        assert mixed[name].dtype == torch.float32
        assert mixed[name].item() == pytest.approx(
            exact[name].item(), rel=0.05
        ), name
