# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Construction of open_clip's text transformer."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import open_clip
from open_clip.transformer import LayerNorm, QuickGELU, TextTransformer
from torch import nn

_DEFAULTS = dict(mlp_ratio=4.0, act='gelu')
# What CLIP's own tower has; named in an arch only where it differs.
_PLAIN = dict(
    causal=True,
    pool='argmax',
    eos_id=2,
    proj_bias=False,
    norm_eps=1e-5,
    vocab_size=49408,
)
_ACTIVATIONS = {
    'gelu': nn.GELU,
    'gelu_tanh': partial(nn.GELU, approximate='tanh'),
    'quick_gelu': QuickGELU,
}
_POOLS = ('argmax', 'first', 'last', 'eos')


def resolve_text_arch(arch: str | Mapping[str, Any]) -> dict[str, Any]:
    """Look up an open_clip model's text tower, or check a given one.

    That has width, layers, heads and maybe mlp_ratio and act. Towers unlike
    CLIP's have further keys: causal (True), pool ('argmax', 'first', 'last' or
    'eos'), eos_id (2), proj_bias (False), norm_eps (1e-5), vocab_size (49408);
    of these the result has those with another value. ValueError if the name is
    unknown, the tower is of another kind, or a key is missing, unknown or does
    not fit.
    """
    if isinstance(arch, str):
        config = open_clip.get_model_config(arch)
        if config is None:
            raise ValueError(
                f'open_clip has no model {arch!r}; take one of '
                'open_clip.list_models(), such as "ViT-L-16", or give '
                'dict(width, layers, heads).'
            )
        arch = text_arch_of(config, arch)
    full = {**_DEFAULTS, **arch}
    keys = {'width', 'layers', 'heads', *_DEFAULTS}
    if set(full) - set(_PLAIN) != keys:
        raise ValueError(
            f'The arch of a text encoder has the keys {sorted(keys)}, got '
            f'{sorted(arch)}.'
        )
    for key, known in dict(act=sorted(_ACTIVATIONS), pool=_POOLS).items():
        if full.get(key, 'argmax') not in known and key in full:
            raise ValueError(
                f'{key} of a text encoder must be one of {list(known)}, '
                f'got {full[key]!r}.'
            )
    if full['width'] % full['heads']:
        raise ValueError(
            f'width {full["width"]} of the text encoder is not divisible by '
            f'its {full["heads"]} heads.'
        )
    return {k: v for k, v in full.items() if k not in _PLAIN or v != _PLAIN[k]}


def is_plain(arch: Mapping[str, Any]) -> bool:
    """Whether a resolved arch is CLIP's: causal, read at the end of text."""
    return not set(arch) & {'causal', 'pool', 'proj_bias'}


def text_arch_of(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Text tower of an open_clip config, for :func:`resolve_text_arch`.

    ValueError if it is no transformer of open_clip's own, or has options that
    are not supported.
    """
    text = dict(config['text_cfg'])
    for key in (
        'context_length',
        'hf_tokenizer_name',
        'tokenizer_kwargs',
        'output_tokens',
    ):
        text.pop(key, None)
    if not text.get('tokenizer_mode'):
        text.pop('tokenizer_mode', None)
    names = dict(
        width='width',
        layers='layers',
        heads='heads',
        mlp_ratio='mlp_ratio',
        pool_type='pool',
        eos_id='eos_id',
        proj_bias='proj_bias',
        vocab_size='vocab_size',
    )
    arch = {new: text.pop(old) for old, new in names.items() if old in text}
    arch['causal'] = not text.pop('no_causal_mask', False)
    arch['norm_eps'] = (text.pop('norm_kwargs', None) or {}).get('eps', 1e-5)
    act = text.pop('act_kwargs', None)
    arch['act'] = 'quick_gelu' if config.get('quick_gelu') else 'gelu'
    if act == dict(approximate='tanh') and arch['act'] == 'gelu':
        arch['act'] = 'gelu_tanh'
    elif act:
        text['act_kwargs'] = act
    if text or not {'width', 'layers', 'heads'} <= set(arch):
        raise ValueError(
            f'The text tower of {name!r} is not a plain transformer (it sets '
            f'{sorted(text)}); give dict(width, layers, heads) or another '
            'model.'
        )
    return arch


def build_text_tower(
    arch: str | Mapping[str, Any],
    embed_dims: int,
    context_length: int,
    num_rows: int | None = None,
) -> tuple[TextTransformer, dict[str, Any]]:
    """Build open_clip's causal text transformer, initialised; also its arch.

    The token embedding has ``num_rows``, by default as many as the tokenizer
    has pieces.
    """
    if context_length < 3:
        raise ValueError(
            f'context_length must be at least 3, got {context_length}.'
        )
    full = resolve_text_arch(arch)
    plain = {**_PLAIN, **full}
    tower = TextTransformer(
        context_length=context_length,
        vocab_size=num_rows or plain['vocab_size'],
        width=full['width'],
        heads=full['heads'],
        layers=full['layers'],
        mlp_ratio=full['mlp_ratio'],
        act_layer=_ACTIVATIONS[full['act']],
        norm_layer=partial(LayerNorm, eps=plain['norm_eps']),
        no_causal_mask=not plain['causal'],
        pool_type=plain['pool'],
        eos_id=plain['eos_id'],
        proj_bias=plain['proj_bias'],
        output_dim=embed_dims,
    )
    return tower, full
