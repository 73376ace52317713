# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tower and pyramid against arrays made by the authors' own modules."""

import pytest
import torch
from golden_arrays import close, group, levels
from official_detector import tower_config

from dito.models.backbones import DITOViT, resize_pos_embed
from dito.models.necks import SimpleFPN
from dito.utils.official import convert_fpn, convert_vit

RELEASE_SHIFT = dict(shift='swl', shift_mask=False, pos_embed_after_shift=True)


def image(arrays):
    return torch.from_numpy(arrays['in/image']).permute(0, 3, 1, 2)


def build(arrays, **kwargs):
    cfg = tower_config(arrays, arrays['cfg/window_grid'])
    if kwargs:
        kwargs['shift_size'] = int(arrays['cfg/window_attention_shift_size'])
    model = DITOViT(**cfg, act='gelu_tanh', **kwargs)
    model.load_state_dict(convert_vit(group(arrays, 'params/')))
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    'name, kwargs',
    [
        ('vit_window', {}),
        ('vit_frozen', {}),
        ('vit_shift', RELEASE_SHIFT),
        ('vit_shift', dict(RELEASE_SHIFT, swl_batched=False)),
    ],
)
def test_tower_equals_the_release(golden, name, kwargs):
    arrays = golden(name)
    out = build(arrays, **kwargs)(image(arrays))[0].permute(0, 2, 3, 1)
    close(out, arrays['out/feature_map_4'])


def test_paper_shift_differs_from_the_release(golden):
    arrays = golden('vit_shift')
    model = build(arrays, shift='swl')
    out = model(image(arrays))[0].permute(0, 2, 3, 1)
    wanted = torch.from_numpy(arrays['out/feature_map_4'])
    assert (out - wanted).abs().max() > 1e-3 * wanted.abs().max()


def test_patches_and_positions_equal_the_release(golden):
    arrays = golden('vit_window')
    patches = build(arrays).patch_embed(image(arrays))
    patches = patches.permute(0, 2, 3, 1)
    close(patches, arrays['mid/patch_embed'])
    grid = build(arrays).pos_embed
    side = int(arrays['cfg/pretrained_pos_emb_size'])
    positions = resize_pos_embed(
        grid.view(1, side, side, -1), patches.shape[1:3]
    )
    close(positions.flatten(1, 2), arrays['mid/pos_emb_resized'])


def test_pyramid_equals_the_release(golden):
    arrays = group(golden('fpn_heads'), 'fpn/')
    neck = SimpleFPN(
        arrays['in/feature_map_4'].shape[-1], int(arrays['cfg/num_filters'])
    )
    neck.load_state_dict(convert_fpn(group(arrays, 'params/')))
    feature = torch.from_numpy(arrays['in/feature_map_4'])
    maps = neck((feature.permute(0, 3, 1, 2),))
    for number, level in zip(levels(arrays, 'out/'), maps, strict=True):
        close(level.permute(0, 2, 3, 1), arrays[f'out/{number}'])


@pytest.mark.parametrize(
    'convert, name, prefix',
    [
        (convert_vit, 'vit_window', 'params/'),
        (convert_fpn, 'fpn_heads', 'fpn/params/'),
    ],
)
def test_trees_with_other_parameters_are_refused(
    golden, convert, name, prefix
):
    params = group(golden(name), prefix)
    with pytest.raises(ValueError, match="'extra/kernel'"):
        convert(dict(params, **{'extra/kernel': params[min(params)]}))
    first = min(params)
    del params[first]
    with pytest.raises(ValueError, match=f"'{first}' is missing"):
        convert(params)
