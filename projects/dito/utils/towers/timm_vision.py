# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Image towers of timm's class: SigLIP, ViTs of CLIP and of ImageNet."""

from typing import Any, Dict, Optional

import torch
from timm.layers import AttentionPoolLatent, Mlp, PatchEmbed
from timm.models.vision_transformer import (
    Attention,
    Block,
    LayerScale,
    VisionTransformer,
)
from torch import nn

from .key_report import KeyReport
from .layer_kinds import act_name, named_arch, refuse, single

_POOLS = {'token': 'token', 'avg': 'avg', 'map': 'attn_pool'}


def convert_timm_vision(trunk: nn.Module,
                        projection: Optional[nn.Linear],
                        report: KeyReport,
                        prefix: str = '',
                        projection_name: str = '') -> Dict[str, Any]:
    """Take an image tower over.

    Args:
        trunk (nn.Module): The tower, for its structure.
        projection (nn.Linear, optional): What projects into the space of the
            texts. None for none.
        report (KeyReport): Weights are taken from here.
        prefix (str): Of the tower's names. Defaults to ''.
        projection_name (str): Name of the projection, with prefix.

    Returns:
        dict: Arguments of :class:`DITOViT`.

    Raises:
        ValueError: If the tower has a part that DITOViT does not.
    """
    config = _config(trunk, projection)
    ours = 'backbone.'
    prefixes = int(trunk.has_class_token)
    if config['class_token'] and trunk.no_embed_class:
        report.take(f'{prefix}cls_token', f'{ours}cls_token')
        report.take(f'{prefix}pos_embed', f'{ours}pos_embed')
    else:
        positions = report.read(f'{prefix}pos_embed')
        report.put(f'{ours}pos_embed', positions[:, prefixes:],
                   f'{prefix}pos_embed{"[:, 1:]" if prefixes else ""}')
        if config['class_token']:
            token = report.read(f'{prefix}cls_token')
            report.put(f'{ours}cls_token', token + positions[:, :1],
                       f'{prefix}cls_token + pos_embed[:, 0]')
    _take_module(trunk.patch_embed.proj, report,
                 f'{prefix}patch_embed.proj', f'{ours}patch_embed.proj')
    for layer, block in enumerate(trunk.blocks):
        name = f'blocks.{layer}'
        _take_module(block, report, prefix + name, ours + name)
        if block.attn.qkv.bias is None:
            weight = block.attn.qkv.weight
            report.put(f'{ours}{name}.attn.qkv.bias',
                       torch.zeros(len(weight)), '0, there is none')
    parts = dict(norm_pre='norm_pre', norm='norm', fc_norm='head.norm')
    if trunk.attn_pool is not None:
        parts['attn_pool'] = 'head.attn_pool'
    for theirs, new in parts.items():
        _take_module(getattr(trunk, theirs), report, prefix + theirs,
                     ours + new)
    if projection is not None:
        _take_module(projection, report, projection_name, f'{ours}head.proj')
    return config


def _take_module(module: nn.Module, report: KeyReport, theirs: str,
                 ours: str) -> None:
    """Take all weights of a module whose parts have the same names here."""
    for name in module.state_dict():
        report.take(f'{theirs}.{name}', f'{ours}.{name}')


def _config(trunk: nn.Module,
            projection: Optional[nn.Linear]) -> Dict[str, Any]:
    """Read the structure off the modules."""
    _check_trunk(trunk)
    first = trunk.blocks[0]
    pool = _POOLS[trunk.global_pool]
    config: Dict[str, Any] = dict(
        type='DITOViT',
        arch=named_arch(trunk.embed_dim, len(trunk.blocks),
                        first.attn.num_heads, first.mlp.fc1.out_features),
        patch_size=single(trunk.patch_embed.patch_size, 'patches'),
        img_size=single(trunk.patch_embed.img_size, 'images'),
        class_token=bool(trunk.has_class_token),
        pre_norm=isinstance(trunk.norm_pre, nn.LayerNorm),
        act=act_name(first.mlp.act),
        norm_eps=first.norm1.eps,
        patch_bias=trunk.patch_embed.proj.bias is not None)
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
    if type(trunk) is not VisionTransformer:
        refuse(f'a body of the class {type(trunk).__name__}')
    embed = trunk.patch_embed
    if type(embed) is not PatchEmbed or not isinstance(
            embed.norm, nn.Identity):
        refuse(f'a patch embedding of the class {type(embed).__name__}')
    found = {
        'register tokens': trunk.num_reg_tokens,
        'no learnt position embedding': trunk.pos_embed is None,
        f'the pooling {trunk.global_pool!r}':
            trunk.global_pool not in _POOLS or trunk.pool_include_prefix,
        'not exactly one last LayerNorm':
            isinstance(trunk.norm, nn.LayerNorm)
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
    extra = [block.attn.q_norm, block.attn.k_norm, block.attn.norm,
             block.mlp.norm]
    if not all(isinstance(module, nn.Identity) for module in extra):
        refuse('LayerNorms within attention or MLP')
    if block.attn.proj.bias is None:
        refuse('projections without bias')


def _attn_pool_config(trunk: nn.Module) -> Dict[str, Any]:
    """Options of the attention pooling that differ from the tower's."""
    pool, first = trunk.attn_pool, trunk.blocks[0]
    plain = (
        type(pool) is AttentionPoolLatent and pool.pos_embed is None
        and pool.latent_len == 1 and pool.mlp is not None
        and isinstance(pool.q, nn.Linear) and pool.kv.bias is not None
        and pool.proj.weight.shape == (trunk.embed_dim, ) * 2
        and pool.q.weight.shape == (trunk.embed_dim, ) * 2
        and isinstance(pool.norm, nn.LayerNorm)
        and isinstance(pool.q_norm, nn.Identity)
        and isinstance(pool.mlp.norm, nn.Identity))
    if not plain:
        refuse(f'an attention pooling other than the one of SigLIP '
               f'({type(pool).__name__})')
    ours = dict(
        num_heads=pool.num_heads,
        act=act_name(pool.mlp.act),
        norm_eps=pool.norm.eps,
        mlp_ratio=pool.mlp.fc1.out_features / trunk.embed_dim)
    layers = dict(
        num_heads=first.attn.num_heads,
        act=act_name(first.mlp.act),
        norm_eps=first.norm1.eps,
        mlp_ratio=first.mlp.fc1.out_features / trunk.embed_dim)
    return {k: v for k, v in ours.items() if v != layers[k]}
