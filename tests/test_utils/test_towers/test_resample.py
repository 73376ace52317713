# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Other patch sizes and position grids."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from timm.layers import resample_patch_embed
from tower_files import clip_config, make_source

from dito.converters.towers import (
    convert_tower,
    resample_kernel,
    resample_tower,
)
from dito.models.backbones.vit_layers import resize_pos_embed


@pytest.mark.parametrize('old, new', [(8, 12), (14, 16), (16, 14), (8, 8)])
def test_kernel_equals_timm(old, new):
    kernel = torch.randn(5, 3, old, old)
    want = resample_patch_embed(kernel, (new, new))
    torch.testing.assert_close(
        resample_kernel(kernel, new), want, atol=1e-4, rtol=1e-4
    )


def test_grown_patches_give_the_same_tokens():
    kernel, patch = torch.randn(5, 3, 8, 8), torch.rand(2, 3, 8, 8)
    grown = F.interpolate(patch, size=(12, 12), mode='bicubic', antialias=True)
    torch.testing.assert_close(
        F.conv2d(grown, resample_kernel(kernel, 12)),
        F.conv2d(patch, kernel),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize('method', ['pinv', 'bilinear'])
@pytest.mark.parametrize('size', [4, 12])
def test_a_patch_of_one_colour_gives_about_the_same(method, size):
    kernel = torch.randn(5, 3, 8, 8) + 1
    colour = torch.rand(1, 3, 1, 1)
    got = F.conv2d(
        colour.expand(1, 3, size, size), resample_kernel(kernel, size, method)
    )
    want = F.conv2d(colour.expand(1, 3, 8, 8), kernel)
    torch.testing.assert_close(got, want, atol=1e-3, rtol=0.05)


def test_tower_with_another_patch_keeps_its_grid(tmp_path):
    tower = convert_tower(make_source(clip_config(), tmp_path))
    before = dict(tower.state)
    native = MODELS.build(tower.backbone)
    native.load_state_dict(backbone_of(tower))
    resample_tower(tower, patch_size=12)
    assert (tower.backbone['patch_size'], tower.backbone['img_size']) == (
        12,
        48,
    )
    assert list(tower.report.resampled) == ['backbone.patch_embed.proj.weight']
    assert tower.state['backbone.pos_embed'] is before['backbone.pos_embed']
    resampled = MODELS.build(tower.backbone)
    resampled.load_state_dict(backbone_of(tower))
    image = torch.randn(1, 3, 32, 32)
    # Patch by patch, as resizing across their edges is another thing.
    grown = F.interpolate(
        F.unfold(image, 8, stride=8).view(3, 8, 8, 16).permute(3, 0, 1, 2),
        size=(12, 12),
        mode='bicubic',
        antialias=True,
    )
    grown = grown.view(4, 4, 3, 12, 12).permute(2, 0, 3, 1, 4)
    with torch.no_grad():
        torch.testing.assert_close(
            resampled.embed(grown.reshape(1, 3, 48, 48)),
            native.embed(image),
            atol=1e-3,
            rtol=1e-3,
        )


def backbone_of(tower):
    return {
        k.removeprefix('backbone.'): v
        for k, v in tower.state.items()
        if k.startswith('backbone.')
    }


def test_tower_with_another_image_size(tmp_path):
    tower = convert_tower(make_source(clip_config(), tmp_path))
    grid = tower.state['backbone.pos_embed'].view(1, 4, 4, -1)
    resample_tower(tower, img_size=48)
    torch.testing.assert_close(
        tower.state['backbone.pos_embed'].view(1, 6, 6, -1),
        resize_pos_embed(grid, (6, 6)),
    )
    assert tower.metadata()['resampled'] == {
        'backbone.pos_embed': '4 x 4 -> 6 x 6, bilinear'
    }
    assert tower.metadata()['preprocess']['image_size'] == 48
    assert 'resampled  backbone.pos_embed' in tower.report.text()
    MODELS.build(tower.backbone).load_state_dict(backbone_of(tower))


def test_native_sizes_change_nothing(tmp_path):
    tower = convert_tower(make_source(clip_config(), tmp_path))
    before = dict(tower.state)
    resample_tower(tower, patch_size=8, img_size=32)
    assert tower.report.resampled == {}
    assert all(tower.state[k] is v for k, v in before.items())


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(patch_size=12, img_size=50), 'give --img-size 48'),
        (dict(patch_size=0), 'must be at least 1'),
        (dict(img_size=-8), 'must be at least 1'),
        (
            dict(patch_size=4, method='nearest'),
            "method='nearest' is not known",
        ),
    ],
)
def test_sizes_that_do_not_fit(kwargs, message, tmp_path):
    tower = convert_tower(make_source(clip_config(), tmp_path))
    with pytest.raises(ValueError, match=message):
        resample_tower(tower, **kwargs)
