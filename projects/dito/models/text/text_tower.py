# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Construction of open_clip's text transformer."""

from functools import partial
from typing import Any, Dict, Mapping, Tuple, Union

import open_clip
from open_clip.transformer import QuickGELU, TextTransformer
from torch import nn

_DEFAULTS = dict(mlp_ratio=4.0, act='gelu')
_ACTIVATIONS = {
    'gelu': nn.GELU,
    'gelu_tanh': partial(nn.GELU, approximate='tanh'),
    'quick_gelu': QuickGELU,
}


def resolve_text_arch(arch: Union[str, Mapping[str, Any]]) -> Dict[str, Any]:
    """Look up an open_clip model's text tower, or check a given one.

    Args:
        arch (str | dict): Model name, or dict(width, layers, heads[,
            mlp_ratio, act]).

    Returns:
        dict: All of width, layers, heads, mlp_ratio and act.

    Raises:
        ValueError: If the name is unknown, the tower is of another kind, or
            a key is missing, unknown or does not fit.
    """
    if isinstance(arch, str):
        arch = _named_arch(arch)
    full = {**_DEFAULTS, **arch}
    keys = {'width', 'layers', 'heads', *_DEFAULTS}
    if set(full) != keys:
        raise ValueError(
            f'The arch of a text encoder has the keys {sorted(keys)}, got '
            f'{sorted(arch)}.')
    if full['act'] not in _ACTIVATIONS:
        raise ValueError(
            f'act of a text encoder must be one of {sorted(_ACTIVATIONS)}, '
            f'got {full["act"]!r}.')
    if full['width'] % full['heads']:
        raise ValueError(
            f'width {full["width"]} of the text encoder is not divisible by '
            f'its {full["heads"]} heads.')
    return full


def _named_arch(name: str) -> Dict[str, Any]:
    """Text tower of an open_clip model, by name."""
    config = open_clip.get_model_config(name)
    if config is None:
        raise ValueError(
            f'open_clip has no model {name!r}; take one of '
            'open_clip.list_models(), such as "ViT-L-16", or give '
            'dict(width, layers, heads).')
    text = dict(config['text_cfg'])
    arch = {k: text.pop(k) for k in ('width', 'layers', 'heads') if k in text}
    if 'mlp_ratio' in text:
        arch['mlp_ratio'] = text.pop('mlp_ratio')
    other = set(text) - {'context_length', 'vocab_size'}
    if other or len(arch) < 3 or text.get('vocab_size', 49408) != 49408:
        raise ValueError(
            f'The text tower of {name!r} is not the plain causal one with '
            f"CLIP's tokenizer (it sets {sorted(other)}); give "
            'dict(width, layers, heads) or another model.')
    arch['act'] = 'quick_gelu' if config.get('quick_gelu') else 'gelu'
    return arch


def build_text_tower(
        arch: Union[str, Mapping[str, Any]], embed_dims: int,
        context_length: int,
        num_rows: int) -> Tuple[TextTransformer, Dict[str, Any]]:
    """Build open_clip's causal text transformer with its initialisation.

    Args:
        arch (str | dict): See :func:`resolve_text_arch`.
        embed_dims (int): Channels after the linear projection.
        context_length (int): Most tokens a text, at least 3.
        num_rows (int): Rows of the token embedding.

    Returns:
        tuple: The transformer and the resolved arch.
    """
    if context_length < 3:
        raise ValueError(
            f'context_length must be at least 3, got {context_length}.')
    full = resolve_text_arch(arch)
    tower = TextTransformer(
        context_length=context_length,
        vocab_size=num_rows,
        width=full['width'],
        heads=full['heads'],
        layers=full['layers'],
        mlp_ratio=full['mlp_ratio'],
        act_layer=_ACTIVATIONS[full['act']],
        output_dim=embed_dims)
    return tower, full
