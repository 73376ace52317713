# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Weights of the release's box head."""

import math
from typing import Mapping, Optional

import numpy as np
import torch
from torch import Tensor

from .tree import ParamTree, StateDict, to_tensor

# Box deltas are (dy, dx, dh, dw) in the release, (dx, dy, dw, dh) here.
_XYWH = [1, 0, 3, 2]


def convert_box_head(params: Mapping[str, np.ndarray],
                     temperature: Optional[np.ndarray] = None) -> StateDict:
    """Convert the release's box head to :class:`DITOBBoxHead`.

    RoI features are flattened as (height, width, channel) in Flax and as
    (channel, height, width) here, and box deltas change places.

    Args:
        params (Mapping[str, ndarray]): Flat Flax tree with paths such as
            'conv_0/kernel', 'fc6_bn/scale', 'class-predict/kernel'.
        temperature (ndarray, optional): The learnt scalar, one number, which
            the release keeps outside of this tree; without it 1, its start.

    Returns:
        dict[str, Tensor]: State dict of the head.

    Raises:
        ValueError: If a parameter is missing or not known.
    """
    tree = ParamTree(params, 'box head')
    state: StateDict = {}
    num_convs = sum(p.startswith('conv_') and p.endswith('/kernel')
                    for p in params)
    for i in range(num_convs):
        state[f'shared_convs.{i}.conv.weight'] = tree.conv(f'conv_{i}')
        state[f'shared_convs.{i}.conv.bias'] = tree.bias(f'conv_{i}')
        state.update(tree.norm(f'conv_{i}_bn', f'shared_convs.{i}.ln'))
    channels = len(state[f'shared_convs.{num_convs - 1}.conv.bias']
                   ) if num_convs else 1
    state['shared_fc.weight'] = _flatten_channels_first(
        tree.linear('fc6'), channels)
    state['shared_fc.bias'] = tree.bias('fc6')
    state.update(tree.norm('fc6_bn', 'shared_norm'))
    state['fc_embed.weight'] = tree.linear('class-predict')
    state['fc_reg.weight'] = tree.linear('box-predict')[_XYWH]
    state['fc_reg.bias'] = tree.bias('box-predict')[_XYWH]
    tree.finish()
    state['temperature_scale'] = torch.ones(
        1) if temperature is None else to_tensor(temperature).reshape(1)
    return state


def _flatten_channels_first(weight: Tensor, channels: int) -> Tensor:
    """Reorder the inputs (h, w, c) of a linear layer to (c, h, w)."""
    size = math.isqrt(weight.shape[1] // channels)
    if size * size * channels != weight.shape[1]:
        raise ValueError(
            f'box head: fc6 has {weight.shape[1]} inputs, which are no '
            f'square map of {channels} channels.')
    weight = weight.view(len(weight), size, size, channels)
    return weight.permute(0, 3, 1, 2).reshape(len(weight), -1).contiguous()
