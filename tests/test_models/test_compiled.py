# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Compiled parts: no graph break, and no new code for every picture."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_detector import DIMS, batch, build, vocabulary
from torch import Tensor, nn
from torch._dynamo.utils import counters

from dito.engine.hooks import DITOCompileHook

sys.path.insert(0, str(Path(__file__).parent / 'test_pretrainers'))
from pretrainer_models import build as build_pairs  # noqa: E402
from pretrainer_models import clip_cfg, make_batch, rep_cfg  # noqa: E402

PAIRS = dict(clip=clip_cfg, rep=rep_cfg)
# The others follow which proposals are taken, which no bound holds for.
COMPARED = (
    *('loss_image', 'loss_text', 'loss_p2', 'loss_p5', 'loss_rpn'),
    *('loss_rpn_center', 'loss_rpn_bbox', 'loss_mask'),
)


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


def stage_losses(stage: str, model: nn.Module) -> dict[str, Tensor]:
    """Losses of a step of a stage by name, drawn from one seed."""
    torch.manual_seed(0)
    if stage == 'dito':
        data = model.data_preprocessor(batch(mask=True), True)
    else:
        pairs = make_batch(8)
        data = model.data_preprocessor(pairs, True)
    losses = model(**data, mode='loss')
    return model.parse_losses(losses)[1]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('stage', ['clip', 'rep', 'dito'])
def test_losses_in_mixed_precision(
    model: nn.Module, stage: str, dtype: torch.dtype
) -> None:
    if stage != 'dito':
        model = build_pairs(PAIRS[stage]()).train()
    exact = stage_losses(stage, model)
    with torch.autocast('cpu', dtype):
        mixed = stage_losses(stage, model)
    compared = [name for name in exact if name in COMPARED or name == 'loss']
    assert len(compared) > 1
    # bfloat16 keeps 8 bits of a number, float16 11.
    rel = 0.05 if dtype == torch.bfloat16 else 0.01
    for name in compared:
        assert mixed[name].dtype == torch.float32
        assert mixed[name].item() == pytest.approx(
            exact[name].item(), rel=rel
        ), name


def hook(**options: Any) -> DITOCompileHook:
    return DITOCompileHook(options=dict(backend='eager', **options))


@pytest.mark.parametrize('stage', ['clip', 'rep', 'dito'])
def test_hook_compiles_the_layers_of_every_stage(
    model: nn.Module, stage: str
) -> None:
    if stage != 'dito':
        model = build_pairs(PAIRS[stage]()).train()
    exact = stage_losses(stage, model)
    hook().before_run(SimpleNamespace(model=model))
    if stage == 'dito':  # Inductor fails at the pyramid as a whole.
        assert model.neck._compiled_call_impl is None
        assert model.neck.fpn_convs[0]._compiled_call_impl is not None
    try:
        got = stage_losses(stage, model)
    finally:
        for module in model.modules():
            module._compiled_call_impl = None
    assert graphs()
    for name in exact:
        torch.testing.assert_close(got[name], exact[name])


def test_layers_are_compiled_by_numbers_of_lengths_not_by_sizes() -> None:
    torch.manual_seed(0)
    backbone = build(
        backbone=dict(window=dict(_delete_=True, size=4))
    ).backbone.eval()
    # Whole windows: of the shifted ones, sides of 2 and 4, so three lengths.
    sizes = [(64, 96), (96, 64), (96, 128), (160, 64), (128, 128), (224, 96)]
    images = [torch.randn(2, 3, *size) for size in sizes]
    with torch.no_grad():
        exact = [backbone(x)[0] for x in images]
        hook(fullgraph=True).before_run(SimpleNamespace(model=backbone))
        counts = []
        for x, want in zip(images, exact, strict=True):
            torch.testing.assert_close(backbone(x)[0], want)
            counts.append(graphs())
    # One for the windows, one for the global layer; a number that is equal
    # to another by chance at first may take one more.
    assert counts[0] == 2 and counts[2] == counts[-1] <= 4


def test_hook_wants_layers_it_knows(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"none of \['Blocks'\]"):
        DITOCompileHook(parts=['Blocks']).before_run(
            SimpleNamespace(model=model)
        )
