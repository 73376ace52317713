# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Fitting of a checkpoint's tensors to a model of another input size."""

import math
import re
from collections.abc import MutableMapping
from typing import Any

from torch import Tensor, nn

from dito.models.backbones.pos_embed import resize_pos_embed


def fit_state_dict(
    model: nn.Module,
    checkpoint: dict[str, Any],
    resampled: MutableMapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """Resize what can be resized, in place.

    Args:
        model (nn.Module): Model that will get the weights. Modules with a
            method ``adapt_state_dict(state_dict, prefix)`` fit their own.
        checkpoint (dict): With ``state_dict``, or a bare state dict.
        resampled (dict, optional): Gets the names of what was resized, and
            from what to what.

    Returns:
        dict[str, Tensor]: The weights by the model's names.
    """
    state: MutableMapping[str, Any] = checkpoint.get('state_dict', checkpoint)
    for key in [k for k in state if k.startswith('module.')]:
        state[re.sub(r'^module\.', '', key)] = state.pop(key)
    for name, module in model.named_modules():
        if hasattr(module, 'adapt_state_dict'):
            module.adapt_state_dict(state, f'{name}.' if name else '')
    own = model.state_dict()
    for key, value in state.items():
        if key.endswith('pos_embed') and key in own:
            state[key] = fit_pos_embed(value, own[key])
            if resampled is not None and state[key] is not value:
                old, new = (math.isqrt(x.shape[1]) for x in (value, own[key]))
                resampled[key] = (
                    f'{key} from {old} x {old} to {new} x {new} positions'
                )
    return {k: v for k, v in state.items() if isinstance(v, Tensor)}


def fit_pos_embed(value: Tensor, target: Tensor) -> Tensor:
    """Resize a positional embedding between square grids.

    Args:
        value (Tensor): Shape (1, g * g, C).
        target (Tensor): Shape (1, h * h, C), or any other.

    Returns:
        Tensor: Shape of ``target``; ``value`` if the shapes are one already
        or are not both square grids of one width.
    """
    if value.shape == target.shape or value.dim() != 3 or target.dim() != 3:
        return value
    old, new = math.isqrt(value.shape[1]), math.isqrt(target.shape[1])
    if (old * old, new * new, value.shape[2]) != (
        value.shape[1],
        target.shape[1],
        target.shape[2],
    ):
        return value
    grid = value.reshape(1, old, old, -1)
    return resize_pos_embed(grid, (new, new)).reshape(target.shape).to(value)


def explain_mismatch(key: str, value: Tensor, target: Tensor) -> str:
    """Say how a weight of the checkpoint differs from the model's.

    Args:
        key (str): Name of the weight.
        value (Tensor): In the checkpoint.
        target (Tensor): In the model, of another shape.

    Returns:
        str: Shapes; patch sizes and position grids in their own words.
    """
    shapes = (
        f'{key} {tuple(value.shape)} in the checkpoint, '
        f'{tuple(target.shape)} in the model'
    )
    if is_patch_mismatch(key, value, target):
        old, new = value.shape[-1], target.shape[-1]
        return (
            f'{key} is for patches of {old} x {old} pixels in the checkpoint '
            f'and of {new} x {new} in the model: set patch_size={old}, or '
            'convert the tower with tools/model_converters/clip_to_dito.py '
            f'--patch-size {new}'
        )
    if is_grid_mismatch(key, value, target):
        return (
            f'{key} has {value.shape[1]} positions in the checkpoint and '
            f'{target.shape[1]} in the model, and only square grids (without '
            'a class token) can be resized: set img_size to that of the '
            'checkpoint, or convert the tower with '
            'tools/model_converters/clip_to_dito.py'
        )
    return shapes


def is_patch_mismatch(key: str, value: Tensor, target: Tensor) -> bool:
    """Whether two patch embeddings differ in the patch's size alone."""
    return (
        key.endswith('patch_embed.proj.weight')
        and value.dim() == target.dim() == 4
        and value.shape[:2] == target.shape[:2]
    )


def is_grid_mismatch(key: str, value: Tensor, target: Tensor) -> bool:
    """Whether two position embeddings differ in their number alone."""
    return (
        key.endswith('pos_embed')
        and value.dim() == target.dim() == 3
        and value.shape[2] == target.shape[2]
    )
