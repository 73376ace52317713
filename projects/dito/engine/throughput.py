# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The speed of a training, and the operations of a pretraining step.

Operations are counted by PyTorch without any data: matrix products and
convolutions, a multiplication with its addition as two, and the two products
of attention (over all pairs of a set, causal or not). A trained part counts
three times in a step (forward, and twice that backward), a frozen one once.
Passes that save memory are no useful work and are not counted, as is usual for
the model FLOP utilisation (Chowdhery et al., "PaLM", 2022).
"""

import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class ThroughputMeter:
    """Images per second and share of waiting over the last iterations."""

    def __init__(self, window: int = 50) -> None:
        self._steps: deque[tuple[float, float, int]] = deque(maxlen=window)
        self._waited = 0.0
        self._last = 0.0

    def start(self) -> None:
        """Begin anew, so that pauses such as validation do not count."""
        self._steps.clear()
        self._last = time.perf_counter()
        self._waited = 0.0

    def wait(self, seconds: float) -> None:
        """Add waiting time of the current iteration."""
        self._waited += seconds

    def wait_since_last(self) -> None:
        """Count all time since the last iteration as waiting."""
        self._waited = time.perf_counter() - self._last

    def step(self, images: int) -> dict[str, float]:
        """End an iteration with a number of images of all processes.

        ``loader_wait`` is the share of the time spent waiting for data.
        """
        now = time.perf_counter()
        self._steps.append((now - self._last, self._waited, images))
        self._last, self._waited = now, 0.0
        seconds, waited, count = (
            sum(column) for column in zip(*self._steps, strict=True)
        )
        return dict(
            images_per_second=count / max(seconds, 1e-9),
            loader_wait=waited / max(seconds, 1e-9),
        )


Size = tuple[int, int]


@torch.no_grad()
def forward_flops(
    module: nn.Module, *inputs: Any, method: str = 'forward'
) -> int:
    """Count the operations of a method, run on a copy without weights.

    The module stays as it is; tensors may be of ``device='meta'``.
    """
    # The counter knows plain products alone, not each fused attention.
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        getattr(_without_weights(module), method)(*inputs)
    return counter.get_total_flops()


def _without_weights(module: nn.Module) -> nn.Module:
    """Copy a module with tensors of shape and type only, and no hooks."""
    kind = type(module)
    if isinstance(module, FSDPModule):
        kind = kind.__mro__[2]  # torch puts a class of its own before it
    copy = kind.__new__(kind)
    hooks = {
        name: OrderedDict()
        for name, value in vars(module).items()
        if 'hooks' in name and isinstance(value, dict)
    }
    copy.__dict__.update(
        vars(module),
        **hooks,
        _compiled_call_impl=None,
        _parameters={k: _blank(p) for k, p in module._parameters.items()},
        _buffers={k: _blank(b) for k, b in module._buffers.items()},
        _modules={
            k: m and _without_weights(m) for k, m in module._modules.items()
        },
    )
    return copy


def _blank(value: Tensor | None) -> Tensor | None:
    return (
        None
        if value is None
        else torch.empty(value.shape, dtype=value.dtype, device='meta')
    )


def _zeros(like: nn.Module, *shape: int) -> Tensor:
    """An input without data, of the type of a module's weights."""
    dtype = next(like.parameters()).dtype
    return torch.empty(shape, dtype=dtype, device='meta')


def vit_flops(tower: nn.Module, size: Size) -> int:
    """Count an image tower on one image, (height, width), forward."""
    return forward_flops(tower, _zeros(tower, 1, 3, *size))


def step_flops(model: nn.Module, batch: dict[str, Any]) -> int:
    """Count a pretraining step, for one image with its text; 0 of others.

    Towers may be of any make; all texts count as long as the longest.
    """
    parts = flops_by_part(model, batch)
    heads, targets = parts.pop('heads', 0), parts.pop('targets', 0)
    towers = sum(
        flops * (3 if _trained(getattr(model, name)) else 1)
        for name, flops in parts.items()
    )
    return towers + 3 * heads + targets


def flops_by_part(model: nn.Module, batch: dict[str, Any]) -> dict[str, int]:
    """Count the forward pass of one image with its text; nothing of others.

    The parts are ``backbone``, ``text_encoder``, ``heads`` and ``targets``,
    what the heads do without gradient.
    """
    tower = getattr(model, 'backbone', None)
    encoder = getattr(model, 'text_encoder', None)
    if 'texts' not in batch or tower is None or encoder is None:
        return {}
    size = tuple(batch['inputs'].shape[-2:])
    tokens = encoder.tokenize(batch['texts'])
    longest = tokens[tokens.argmax(dim=-1).argmax()]
    heads, targets = _heads_flops(model, size)
    return dict(
        backbone=vit_flops(tower, size),
        text_encoder=forward_flops(encoder, longest[None]),
        heads=heads,
        targets=targets,
    )


def _heads_flops(model: nn.Module, size: Size) -> tuple[int, int]:
    """Count pyramid and heads, forward: what learns, and what does not."""
    if getattr(model, 'neck', None) is None:
        return 0, 0
    with torch.no_grad():
        feats = _without_weights(model.backbone)(
            _zeros(model.backbone, 1, 3, *size)
        )
        maps = _without_weights(model.neck)(feats)
    total = forward_flops(model.neck, feats)
    if getattr(model, 'rpn_head', None) is not None:
        total += forward_flops(
            model.rpn_head, maps, method='forward_objectness'
        )
    if getattr(model, 'roi_head', None) is None:
        return total, 0
    boxes = _embed_flops(model, maps, sum(model.regions.num_regions))
    if not model.pooling.startswith('global_'):
        return total + boxes, 0
    # Whole maps, and the boxes for the targets of the proposal head alone.
    total += _embed_flops(model, maps, len(maps))
    return total, 0 if model.rpn_head is None else boxes


def _embed_flops(
    model: nn.Module, maps: Sequence[Tensor], regions: int
) -> int:
    """Count the box head on a number of regions, forward."""
    layer = model.roi_head.bbox_roi_extractor.roi_layers[0]
    crops = _zeros(model.neck, regions, maps[0].shape[1], *layer.output_size)
    return forward_flops(model.roi_head.bbox_head, crops, method='embed')


def _trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
