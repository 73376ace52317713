# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Finding values that are not finite, over all processes."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn


class NonFiniteError(FloatingPointError):
    """A loss, a gradient or a weight is NaN or infinite."""


def non_finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Pick the scalars that are not finite.

    Args:
        values (dict): Tensors of one element, or numbers, by name.

    Returns:
        dict[str, float]: Those that are NaN or infinite.
    """
    tensors = {n: v for n, v in values.items() if isinstance(v, Tensor)}
    numbers = {n: float(v) for n, v in values.items() if n not in tensors}
    if tensors:
        # One transfer from the device, however many values there are.
        row = torch.stack(
            [v.detach().double().reshape(()) for v in tensors.values()]
        )
        numbers.update(zip(tensors, row.tolist(), strict=True))
    return {n: v for n, v in numbers.items() if not math.isfinite(v)}


def anywhere(flag: bool) -> bool:
    """Whether a flag is set on any process; every process must ask."""
    value = torch.tensor(float(flag))
    all_reduce(value, op='max')
    return bool(value)


def non_finite_weights(model: nn.Module) -> list[str]:
    """Name the parameters of this process that are not finite.

    Args:
        model (nn.Module): Of sharded parameters the own part is looked at.

    Returns:
        list[str]: Names in order.
    """
    named = [(n, local_part(p.detach())) for n, p in model.named_parameters()]
    if not named:
        return []
    flags = torch.stack([torch.isfinite(p).all() for _, p in named])
    return [
        n for (n, _), ok in zip(named, flags.tolist(), strict=True) if not ok
    ]


def local_part(value: Tensor) -> Tensor:
    """Return the part of a tensor that lies on this process."""
    return value.to_local() if hasattr(value, 'to_local') else value


def require_finite_weights(
    model: nn.Module, step: int, last: str | None
) -> None:
    """Refuse weights that are not finite; every process must call this.

    Args:
        model (nn.Module): Model to be saved.
        step (int): Step it would be saved at.
        last (str, optional): The checkpoint before.

    Raises:
        NonFiniteError: On all processes, if a weight on any is not finite.
    """
    names = non_finite_weights(model)
    if anywhere(bool(names)):
        kept = f'the last one stays {last}' if last else 'none was saved yet'
        raise NonFiniteError(
            f'{len(names)} weights are not finite at step {step} '
            f'({", ".join(names[:5]) or "on another rank"}): the checkpoint '
            f'is not saved, {kept}. Lower the learning rate, clip gradients '
            '(optim_wrapper.clip_grad), or look at the data.'
        )
