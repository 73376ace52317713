# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Image towers of open_clip's and timm's classes, taken over by layers."""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from open_clip import transformer as clip
from timm.layers import AttentionPoolLatent, Mlp, PatchEmbed
from timm.models.vision_transformer import (
    Attention,
    Block,
    LayerScale,
    VisionTransformer,
)
from torch import nn

from dito.models.backbones.vit_layers import ARCHS, VitArch

from .key_report import KeyReport


def refuse(what: str) -> NoReturn:
    """Say that a tower has a part that DITOViT has not."""
    raise ValueError(
        f'This tower has {what}, which DITOViT has not; '
        'docs/pretrained_towers.md lists the kinds that can be converted.'
    )


def _act_name(module: nn.Module) -> str:
    """Name of an activation: 'gelu', 'gelu_tanh' or 'quick_gelu'."""
    kind = type(module).__name__
    if kind == 'GELUTanh' or getattr(module, 'approximate', '') == 'tanh':
        return 'gelu_tanh'
    names = dict(GELU='gelu', QuickGELU='quick_gelu')
    if kind not in names:
        refuse(f'the activation {kind}')
    return names[kind]


def _named_arch(
    dims: int, layers: int, heads: int, hidden: int
) -> str | dict[str, Any]:
    """Name of an architecture, or its sizes where it has none."""
    sizes = VitArch(dims, layers, heads, hidden / dims)
    for name, known in ARCHS.items():
        if sizes == known:
            return name
    ratio = sizes.mlp_ratio
    # The layers are made with int(dims * ratio); a rounded-down quotient
    # would lose a channel.
    while int(dims * ratio) < hidden:
        ratio += 1e-9
    return dict(
        embed_dims=dims, num_layers=layers, num_heads=heads, mlp_ratio=ratio
    )


def single(sides: int | Sequence[int], what: str) -> int:
    """The side of what must be square."""
    sides = [sides] if isinstance(sides, int) else list(sides)
    if len(set(sides)) != 1:
        refuse(f'{what} of {" x ".join(map(str, sides))} pixels')
    return sides[0]


_LAYER_NAMES = {
    'ln_1.weight': 'norm1.weight',
    'ln_1.bias': 'norm1.bias',
    'attn.in_proj_weight': 'attn.qkv.weight',
    'attn.in_proj_bias': 'attn.qkv.bias',
    'attn.out_proj.weight': 'attn.proj.weight',
    'attn.out_proj.bias': 'attn.proj.bias',
    'ln_2.weight': 'norm2.weight',
    'ln_2.bias': 'norm2.bias',
    'mlp.c_fc.weight': 'mlp.fc1.weight',
    'mlp.c_fc.bias': 'mlp.fc1.bias',
    'mlp.c_proj.weight': 'mlp.fc2.weight',
    'mlp.c_proj.bias': 'mlp.fc2.bias',
}


def convert_open_clip_vision(
    visual: clip.VisionTransformer, report: KeyReport, prefix: str = 'visual.'
) -> dict[str, Any]:
    """Take an image tower over; returns arguments of :class:`DITOViT`.

    ValueError if the tower has a part that DITOViT does not.
    """
    config = _clip_config(visual)
    ours = 'backbone.'
    report.take(f'{prefix}conv1.weight', f'{ours}patch_embed.proj.weight')
    positions = report.read(f'{prefix}positional_embedding')
    token = report.read(f'{prefix}class_embedding')
    report.put(
        f'{ours}cls_token',
        (token + positions[0])[None, None],
        f'{prefix}class_embedding + positional_embedding[0]',
    )
    report.put(
        f'{ours}pos_embed',
        positions[1:][None],
        f'{prefix}positional_embedding[1:]',
    )
    names = dict(_LAYER_NAMES)
    if 'layer_scale' in config:
        names.update({'ls_1.gamma': 'ls1.gamma', 'ls_2.gamma': 'ls2.gamma'})
    for layer in range(len(visual.transformer.resblocks)):
        for theirs, new in names.items():
            report.take(
                f'{prefix}transformer.resblocks.{layer}.{theirs}',
                f'{ours}blocks.{layer}.{new}',
            )
    norms = dict(ln_post='head.norm' if config['head'].get('norm') else 'norm')
    if config['pre_norm']:
        norms['ln_pre'] = 'norm_pre'
    for theirs, new in norms.items():
        for kind in ('weight', 'bias'):
            report.take(f'{prefix}{theirs}.{kind}', f'{ours}{new}.{kind}')
    if 'out_dims' in config['head']:
        report.take(
            f'{prefix}proj',
            f'{ours}head.proj.weight',
            lambda w: w.T,
            'transposed',
        )
    return config


def _clip_config(visual: clip.VisionTransformer) -> dict[str, Any]:
    """Read the structure off the modules."""
    layers = visual.transformer.resblocks
    first = layers[0]
    if any(type(layer) is not clip.ResidualAttentionBlock for layer in layers):
        refuse(f'layers of {type(first).__name__}')
    if visual.attn_pool is not None:
        refuse("CoCa's attentional pooler")
    if visual.pool_type not in ('tok', 'avg'):
        refuse(f'the pooling {visual.pool_type!r}')
    dims = first.attn.embed_dim
    config: dict[str, Any] = dict(
        type='DITOViT',
        arch=_named_arch(
            dims,
            len(layers),
            first.attn.num_heads,
            first.mlp.c_fc.out_features,
        ),
        patch_size=single(visual.patch_size, 'patches'),
        img_size=single(visual.image_size, 'images'),
        class_token=True,
        pre_norm=isinstance(visual.ln_pre, nn.LayerNorm),
        act=_act_name(first.mlp.gelu),
        norm_eps=first.ln_1.eps,
        patch_bias=False,
    )
    if isinstance(first.ls_1, clip.LayerScale):
        config['layer_scale'] = 1e-5
    head = config['head'] = dict(
        pool='token' if visual.pool_type == 'tok' else 'avg'
    )
    if visual.final_ln_after_pool:
        head['norm'] = True
    if visual.proj is not None:
        head['out_dims'] = visual.proj.shape[1]
    return config


_POOLS = {'token': 'token', 'avg': 'avg', 'map': 'attn_pool'}


def convert_timm_vision(
    trunk: nn.Module,
    projection: nn.Linear | None,
    report: KeyReport,
    prefix: str = '',
    projection_name: str = '',
) -> dict[str, Any]:
    """Take an image tower over; returns arguments of :class:`DITOViT`.

    ``projection`` leads into the space of the texts, if anything does; the
    prefixes are those of their names. ValueError if the tower has a part that
    DITOViT does not.
    """
    config = _timm_config(trunk, projection)
    ours = 'backbone.'
    prefixes = int(trunk.has_class_token)
    if config['class_token'] and trunk.no_embed_class:
        report.take(f'{prefix}cls_token', f'{ours}cls_token')
        report.take(f'{prefix}pos_embed', f'{ours}pos_embed')
    else:
        positions = report.read(f'{prefix}pos_embed')
        report.put(
            f'{ours}pos_embed',
            positions[:, prefixes:],
            f'{prefix}pos_embed{"[:, 1:]" if prefixes else ""}',
        )
        if config['class_token']:
            token = report.read(f'{prefix}cls_token')
            report.put(
                f'{ours}cls_token',
                token + positions[:, :1],
                f'{prefix}cls_token + pos_embed[:, 0]',
            )
    _take_module(
        trunk.patch_embed.proj,
        report,
        f'{prefix}patch_embed.proj',
        f'{ours}patch_embed.proj',
    )
    for layer, block in enumerate(trunk.blocks):
        name = f'blocks.{layer}'
        _take_module(block, report, prefix + name, ours + name)
        if block.attn.qkv.bias is None:
            weight = block.attn.qkv.weight
            report.put(
                f'{ours}{name}.attn.qkv.bias',
                torch.zeros(len(weight)),
                '0, there is none',
            )
    parts = dict(norm_pre='norm_pre', norm='norm', fc_norm='head.norm')
    if trunk.attn_pool is not None:
        parts['attn_pool'] = 'head.attn_pool'
    for theirs, new in parts.items():
        _take_module(
            getattr(trunk, theirs), report, prefix + theirs, ours + new
        )
    if projection is not None:
        _take_module(projection, report, projection_name, f'{ours}head.proj')
    return config


def _take_module(
    module: nn.Module, report: KeyReport, theirs: str, ours: str
) -> None:
    """Take all weights of a module whose parts have the same names here."""
    for name in module.state_dict():
        report.take(f'{theirs}.{name}', f'{ours}.{name}')


def _timm_config(
    trunk: nn.Module, projection: nn.Linear | None
) -> dict[str, Any]:
    """Read the structure off the modules."""
    _check_trunk(trunk)
    first = trunk.blocks[0]
    pool = _POOLS[trunk.global_pool]
    config: dict[str, Any] = dict(
        type='DITOViT',
        arch=_named_arch(
            trunk.embed_dim,
            len(trunk.blocks),
            first.attn.num_heads,
            first.mlp.fc1.out_features,
        ),
        patch_size=single(trunk.patch_embed.patch_size, 'patches'),
        img_size=single(trunk.patch_embed.img_size, 'images'),
        class_token=bool(trunk.has_class_token),
        pre_norm=isinstance(trunk.norm_pre, nn.LayerNorm),
        act=_act_name(first.mlp.act),
        norm_eps=first.norm1.eps,
        patch_bias=trunk.patch_embed.proj.bias is not None,
    )
    if isinstance(first.ls1, LayerScale):
        config['layer_scale'] = 1e-5
    head = config['head'] = dict(pool=pool)
    if isinstance(trunk.fc_norm, nn.LayerNorm):
        head['norm'] = True
    if pool == 'attn_pool':
        head.update(_attn_pool_config(trunk))
    if projection is not None:
        head['out_dims'] = projection.out_features
        if projection.bias is not None:
            head['proj_bias'] = True
    return config


def _check_trunk(trunk: nn.Module) -> None:
    """Refuse what a plain vision transformer does not have."""
    if getattr(trunk, 'rope', None) is not None:
        refuse('rotary positions')
    if type(trunk) is not VisionTransformer:
        refuse(f'a body of the class {type(trunk).__name__}')
    embed = trunk.patch_embed
    if type(embed) is not PatchEmbed or not isinstance(
        embed.norm, nn.Identity
    ):
        refuse(f'a patch embedding of the class {type(embed).__name__}')
    found = {
        'register tokens': trunk.num_reg_tokens,
        'no learnt position embedding': trunk.pos_embed is None,
        f'the pooling {trunk.global_pool!r}': trunk.global_pool not in _POOLS
        or trunk.pool_include_prefix,
        'not exactly one last LayerNorm': isinstance(trunk.norm, nn.LayerNorm)
        == isinstance(trunk.fc_norm, nn.LayerNorm),
    }
    for what, is_so in found.items():
        if is_so:
            refuse(what)
    for block in trunk.blocks:
        _check_block(block)


def _check_block(block: nn.Module) -> None:
    """Refuse layers that are not the plain ones."""
    if type(block) is not Block:  # parallel ones have other parts
        refuse(f'layers of the class {type(block).__name__}')
    for module, kind in ((block.attn, Attention), (block.mlp, Mlp)):
        if type(module) is not kind:
            refuse(f'layers with a {type(module).__name__}')
    extra = [
        block.attn.q_norm,
        block.attn.k_norm,
        block.attn.norm,
        block.mlp.norm,
    ]
    if not all(isinstance(module, nn.Identity) for module in extra):
        refuse('LayerNorms within attention or MLP')
    if block.attn.proj.bias is None:
        refuse('projections without bias')


def _attn_pool_config(trunk: nn.Module) -> dict[str, Any]:
    """Options of the attention pooling that differ from the tower's."""
    pool, first = trunk.attn_pool, trunk.blocks[0]
    plain = (
        type(pool) is AttentionPoolLatent
        and pool.pos_embed is None
        and pool.latent_len == 1
        and pool.mlp is not None
        and isinstance(pool.q, nn.Linear)
        and pool.kv.bias is not None
        and pool.proj.weight.shape == (trunk.embed_dim,) * 2
        and pool.q.weight.shape == (trunk.embed_dim,) * 2
        and isinstance(pool.norm, nn.LayerNorm)
        and isinstance(pool.q_norm, nn.Identity)
        and isinstance(pool.mlp.norm, nn.Identity)
    )
    if not plain:
        refuse(
            f'an attention pooling other than the one of SigLIP '
            f'({type(pool).__name__})'
        )
    ours = dict(
        num_heads=pool.num_heads,
        act=_act_name(pool.mlp.act),
        norm_eps=pool.norm.eps,
        mlp_ratio=pool.mlp.fc1.out_features / trunk.embed_dim,
    )
    layers = dict(
        num_heads=first.attn.num_heads,
        act=_act_name(first.mlp.act),
        norm_eps=first.norm1.eps,
        mlp_ratio=first.mlp.fc1.out_features / trunk.embed_dim,
    )
    return {k: v for k, v in ours.items() if v != layers[k]}
