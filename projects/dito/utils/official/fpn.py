# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Weights of the release's feature pyramid."""

from typing import Mapping

import numpy as np

from .tree import ParamTree, StateDict


def convert_fpn(params: Mapping[str, np.ndarray]) -> StateDict:
    """Convert the release's feature pyramid to :class:`SimpleFPN`.

    Flax numbers unnamed layers in the order they were made: level by level,
    the 1x1 before the 3x3 convolution.

    Args:
        params (Mapping[str, ndarray]): Flat Flax tree with paths such as
            'Conv_0/kernel', 'simfpn-l2-ln-out-1/scale'.

    Returns:
        dict[str, Tensor]: State dict of the pyramid.

    Raises:
        ValueError: If a parameter is missing or not known.
    """
    tree = ParamTree(params, 'feature pyramid')
    state = {
        'up4.0.weight': tree.conv_transpose('ConvTranspose_0'),
        'up4.3.weight': tree.conv_transpose('ConvTranspose_1'),
        'up2.weight': tree.conv_transpose('ConvTranspose_2'),
    }
    state.update(tree.norm('simfpn-l2-ln-d2', 'up4.1'))
    for index, level in enumerate(range(2, 6)):
        for part, name in enumerate(('lateral_convs', 'fpn_convs')):
            state[f'{name}.{index}.conv.weight'] = tree.conv(
                f'Conv_{2 * index + part}')
            state.update(
                tree.norm(f'simfpn-l{level}-ln-out-{part + 1}',
                          f'{name}.{index}.ln'))
    tree.finish()
    return state
