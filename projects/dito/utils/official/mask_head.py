# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Weights of the release's mask head."""

from typing import Mapping

import numpy as np

from .tree import ParamTree, StateDict


def convert_mask_head(params: Mapping[str, np.ndarray]) -> StateDict:
    """Convert the release's mask head to :class:`DITOMaskHead`.

    Args:
        params (Mapping[str, ndarray]): Flat Flax tree with paths such as
            'mask-conv-l0/kernel', 'conv5-mask/kernel'.

    Returns:
        dict[str, Tensor]: State dict of the head.

    Raises:
        ValueError: If a parameter is missing or not known.
    """
    tree = ParamTree(params, 'mask head')
    state: StateDict = {}
    for i in range(4):
        state[f'convs.{i}.conv.weight'] = tree.conv(f'mask-conv-l{i}')
        state[f'convs.{i}.conv.bias'] = tree.bias(f'mask-conv-l{i}')
        state.update(tree.norm(f'mask-conv-l{i}-bn', f'convs.{i}.ln'))
    state['upsample.weight'] = tree.conv_transpose('conv5-mask')
    state['upsample.bias'] = tree.bias('conv5-mask')
    state.update(tree.norm('conv5-mask-bn', 'upsample_norm'))
    state['conv_logits.weight'] = tree.conv('mask_fcn_logits')
    state['conv_logits.bias'] = tree.bias('mask_fcn_logits')
    tree.finish()
    return state
