# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Fitting of a checkpoint's tensors to a model of another input size."""

import math
import re
from typing import Any, Dict, MutableMapping

from torch import Tensor, nn

from dito.models.backbones.pos_embed import resize_pos_embed


def fit_state_dict(model: nn.Module,
                   checkpoint: Dict[str, Any]) -> Dict[str, Tensor]:
    """Resize what can be resized, in place.

    Args:
        model (nn.Module): Model that will get the weights. Modules with a
            method ``adapt_state_dict(state_dict, prefix)`` fit their own.
        checkpoint (dict): With ``state_dict``, or a bare state dict.

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
            value.shape[1], target.shape[1], target.shape[2]):
        return value
    grid = value.reshape(1, old, old, -1)
    return resize_pos_embed(grid, (new, new)).reshape(target.shape).to(value)
