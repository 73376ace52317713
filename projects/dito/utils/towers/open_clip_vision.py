# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Image towers of open_clip's own class: CLIP and CLIPA."""

from typing import Any, Dict

from open_clip.transformer import (
    LayerScale,
    ResidualAttentionBlock,
    VisionTransformer,
)
from torch import nn

from .key_report import KeyReport
from .layer_kinds import act_name, named_arch, refuse, single

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


def convert_open_clip_vision(visual: VisionTransformer, report: KeyReport,
                             prefix: str = 'visual.') -> Dict[str, Any]:
    """Take an image tower over.

    Args:
        visual (VisionTransformer): The tower, for its structure.
        report (KeyReport): Its weights are taken from here.
        prefix (str): Of their names.

    Returns:
        dict: Arguments of :class:`DITOViT`.

    Raises:
        ValueError: If the tower has a part that DITOViT does not.
    """
    config = _config(visual)
    ours = 'backbone.'
    report.take(f'{prefix}conv1.weight', f'{ours}patch_embed.proj.weight')
    positions = report.read(f'{prefix}positional_embedding')
    token = report.read(f'{prefix}class_embedding')
    report.put(f'{ours}cls_token', (token + positions[0])[None, None],
               f'{prefix}class_embedding + positional_embedding[0]')
    report.put(f'{ours}pos_embed', positions[1:][None],
               f'{prefix}positional_embedding[1:]')
    names = dict(_LAYER_NAMES)
    if 'layer_scale' in config:
        names.update({'ls_1.gamma': 'ls1.gamma', 'ls_2.gamma': 'ls2.gamma'})
    for layer in range(len(visual.transformer.resblocks)):
        for theirs, new in names.items():
            report.take(f'{prefix}transformer.resblocks.{layer}.{theirs}',
                        f'{ours}blocks.{layer}.{new}')
    norms = dict(ln_post='head.norm' if config['head'].get('norm') else 'norm')
    if config['pre_norm']:
        norms['ln_pre'] = 'norm_pre'
    for theirs, new in norms.items():
        for kind in ('weight', 'bias'):
            report.take(f'{prefix}{theirs}.{kind}', f'{ours}{new}.{kind}')
    if 'out_dims' in config['head']:
        report.take(f'{prefix}proj', f'{ours}head.proj.weight',
                    lambda w: w.T, 'transposed')
    return config


def _config(visual: VisionTransformer) -> Dict[str, Any]:
    """Read the structure off the modules."""
    layers = visual.transformer.resblocks
    first = layers[0]
    if any(type(layer) is not ResidualAttentionBlock for layer in layers):
        refuse(f'layers of {type(first).__name__}')
    if visual.attn_pool is not None:
        refuse("CoCa's attentional pooler")
    if visual.pool_type not in ('tok', 'avg'):
        refuse(f'the pooling {visual.pool_type!r}')
    dims = first.attn.embed_dim
    config: Dict[str, Any] = dict(
        type='DITOViT',
        arch=named_arch(dims, len(layers), first.attn.num_heads,
                        first.mlp.c_fc.out_features),
        patch_size=single(visual.patch_size, 'patches'),
        img_size=single(visual.image_size, 'images'),
        class_token=True,
        pre_norm=isinstance(visual.ln_pre, nn.LayerNorm),
        act=act_name(first.mlp.gelu),
        norm_eps=first.ln_1.eps,
        patch_bias=False)
    if isinstance(first.ls_1, LayerScale):
        config['layer_scale'] = 1e-5
    head = config['head'] = dict(
        pool='token' if visual.pool_type == 'tok' else 'avg')
    if visual.final_ln_after_pool:
        head['norm'] = True
    if visual.proj is not None:
        head['out_dims'] = visual.proj.shape[1]
    return config
