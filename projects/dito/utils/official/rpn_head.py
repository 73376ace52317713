# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Weights of the release's proposal head."""

from typing import Mapping

import numpy as np

from .tree import ParamTree, StateDict


def convert_rpn_head(params: Mapping[str, np.ndarray]) -> StateDict:
    """Convert the release's proposal head to :class:`DITORPNHead`.

    The box convolution gives (left, right, top, bottom) on both sides. What
    the release calls 'bn' are LayerNorms, one set a level.

    Args:
        params (Mapping[str, ndarray]): Flat Flax tree with paths such as
            'rpn/kernel', 'SubRpnHead_0/rpn-l2-bn/scale'.

    Returns:
        dict[str, Tensor]: State dict of the head.

    Raises:
        ValueError: If a parameter is missing or not known.
    """
    tree = ParamTree(params, 'proposal head')
    state: StateDict = {}
    layers = {'rpn_convs.0': 'rpn', 'rpn_convs.1': 'rpn-1',
              'rpn_cls': 'rpn-class', 'rpn_reg': 'rpn-box'}
    for name, path in layers.items():
        state[f'{name}.weight'] = tree.conv(path)
        state[f'{name}.bias'] = tree.bias(path)
    for index, level in enumerate(range(2, 6)):
        for conv, suffix in enumerate(('', '-1')):
            state.update(
                tree.norm(f'SubRpnHead_{index}/rpn-l{level}-bn{suffix}',
                          f'rpn_norms.{index}.{conv}'))
    tree.finish()
    return state
