# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tower and pyramid against arrays made by the authors' own modules."""

import pytest
import torch

from dito.models.backbones import DITOViT
from dito.models.necks import SimpleFPN
from dito.utils.official import convert_fpn, convert_vit

RELEASE_SHIFT = dict(
    shift='swl', shift_mask=False, pos_embed_after_shift=True)


def part(arrays, prefix):
    return {
        name[len(prefix):]: array
        for name, array in arrays.items() if name.startswith(prefix)
    }


def image(arrays):
    return torch.from_numpy(arrays['in/image']).permute(0, 3, 1, 2)


def build(arrays, **kwargs):
    model = DITOViT(
        dict(embed_dims=64, num_layers=4, num_heads=4), img_size=64,
        window=dict(grid=2), act='gelu_tanh', **kwargs)
    model.load_state_dict(convert_vit(part(arrays, 'params/')))
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize('name, kwargs', [
    ('vit_window', dict(global_layers=2)),
    ('vit_frozen', dict(global_layers=1)),
    ('vit_shift', dict(global_layers=2, shift_size=2, **RELEASE_SHIFT)),
    ('vit_shift', dict(global_layers=2, swl_batched=False, **RELEASE_SHIFT)),
])
def test_tower_equals_the_release(golden, name, kwargs):
    arrays = golden(name)
    out = build(arrays, **kwargs)(image(arrays))[0].permute(0, 2, 3, 1)
    # Measured: 2e-6.
    torch.testing.assert_close(
        out, torch.from_numpy(arrays['out/feature_map_4']), atol=1e-5,
        rtol=0)


def test_paper_shift_differs_from_the_release(golden):
    arrays = golden('vit_shift')
    model = build(arrays, global_layers=2, shift='swl')
    out = model(image(arrays))[0].permute(0, 2, 3, 1)
    wanted = torch.from_numpy(arrays['out/feature_map_4'])
    assert (out - wanted).abs().max() > 1e-2


def test_patches_and_positions_equal_the_release(golden):
    arrays = golden('vit_window')
    model = build(arrays, global_layers=2)
    patches = model.patch_embed(image(arrays)).permute(0, 2, 3, 1)
    torch.testing.assert_close(
        patches, torch.from_numpy(arrays['mid/patch_embed']), atol=1e-5,
        rtol=0)


def test_pyramid_equals_the_release(golden):
    arrays = part(golden('fpn_heads'), 'fpn/')
    neck = SimpleFPN(64, 32)
    neck.load_state_dict(convert_fpn(part(arrays, 'params/')))
    feature = torch.from_numpy(arrays['in/feature_map_4'])
    levels = neck((feature.permute(0, 3, 1, 2),))
    for number, level in zip(range(2, 6), levels, strict=True):
        # Measured: 2e-6.
        torch.testing.assert_close(
            level.permute(0, 2, 3, 1).detach(),
            torch.from_numpy(arrays[f'out/{number}']), atol=1e-5, rtol=0)


@pytest.mark.parametrize('convert, name, prefix', [
    (convert_vit, 'vit_window', 'params/'),
    (convert_fpn, 'fpn_heads', 'fpn/params/'),
])
def test_trees_with_other_parameters_are_refused(
        golden, convert, name, prefix):
    params = part(golden(name), prefix)
    with pytest.raises(ValueError, match="'extra/kernel'"):
        convert(dict(params, **{'extra/kernel': params[min(params)]}))
    first = min(params)
    del params[first]
    with pytest.raises(ValueError, match=f"'{first}' is missing"):
        convert(params)
