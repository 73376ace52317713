# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Weights of the release's vision transformer."""

from typing import Mapping

import numpy as np
import torch

from .tree import ParamTree, StateDict, to_tensor


def convert_vit(params: Mapping[str, np.ndarray]) -> StateDict:
    """Convert the release's vision transformer to :class:`DITOViT`.

    The tower it fits has ``act='gelu_tanh'`` and ``norm_eps=1e-6``.

    Args:
        params (Mapping[str, ndarray]): Flat Flax tree with paths such as
            'conv1/kernel', 'transformer/resblocks.0/attn/query/kernel'.

    Returns:
        dict[str, Tensor]: State dict of the tower.

    Raises:
        ValueError: If a parameter is missing or not known.
    """
    tree = ParamTree(params, 'vision transformer')
    state = {
        'patch_embed.proj.weight': tree.conv('conv1'),
        'patch_embed.proj.bias': tree.bias('conv1'),
        'pos_embed': to_tensor(tree.read('positional_embedding')[None]),
    }
    prefix = 'transformer/resblocks.'
    numbers = {
        int(path[len(prefix):].split('/')[0])
        for path in params if path.startswith(prefix)
    }
    for number in sorted(numbers):
        state.update(_convert_block(tree, f'{prefix}{number}',
                                    f'blocks.{number}'))
    state.update(tree.norm('ln_post', 'norm'))
    tree.finish()
    return state


def _convert_block(tree: ParamTree, path: str, name: str) -> StateDict:
    """Convert one transformer layer."""
    qkv = []
    for part in ('query', 'key', 'value'):
        # (C, heads, C / heads) -> (out, in)
        kernel = tree.read(f'{path}/attn/{part}/kernel')
        qkv.append(to_tensor(kernel.reshape(len(kernel), -1).T))
    # (heads, C / heads, C) -> (out, in)
    out = tree.read(f'{path}/attn/out/kernel')
    state = {
        f'{name}.attn.qkv.weight': torch.cat(qkv),
        f'{name}.attn.qkv.bias': torch.cat([
            tree.bias(f'{path}/attn/{part}')
            for part in ('query', 'key', 'value')
        ]),
        f'{name}.attn.proj.weight':
            to_tensor(out.reshape(-1, out.shape[-1]).T),
        f'{name}.attn.proj.bias': tree.bias(f'{path}/attn/out'),
    }
    for theirs, ours in (('c_fc', 'fc1'), ('c_proj', 'fc2')):
        state[f'{name}.mlp.{ours}.weight'] = tree.linear(
            f'{path}/mlp/{theirs}')
        state[f'{name}.mlp.{ours}.bias'] = tree.bias(f'{path}/mlp/{theirs}')
    for number in (1, 2):
        state.update(tree.norm(f'{path}/ln_{number}', f'{name}.norm{number}'))
    return state
