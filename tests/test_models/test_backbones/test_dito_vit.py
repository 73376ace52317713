# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import copy

import pytest
import torch
from mmdet.registry import MODELS

from dito.models.backbones import DITOViT
from dito.models.backbones.vit_layers import QuickGELU

ARCH = dict(embed_dims=16, num_layers=4, num_heads=2, mlp_ratio=2)
SWL = dict(window=dict(size=4), global_layers=2, shift='swl')


def build(**kwargs):
    torch.manual_seed(0)
    return DITOViT(ARCH, patch_size=4, img_size=32, **kwargs)


@pytest.mark.parametrize(
    'arch, layers, channels, millions',
    [
        ('tiny', 12, 192, 5.5),
        ('small', 12, 384, 21.7),
        ('base', 12, 768, 85.8),
        ('large', 24, 1024, 303.3),
        ('huge', 32, 1280, 630.9),
    ],
)
def test_named_sizes(arch, layers, channels, millions):
    with torch.device('meta'):
        model = DITOViT(arch)
    assert len(model.blocks) == layers
    assert model.embed_dims == channels
    block = 12 * channels**2 + 13 * channels
    rest = 3 * 16 * 16 * channels + channels + 196 * channels + 2 * channels
    count = sum(p.numel() for p in model.parameters())
    assert count == layers * block + rest
    assert abs(count / 1e6 - millions) < 0.1


def test_is_registered_and_maps_to_one_level():
    model = MODELS.build(
        dict(type='DITOViT', arch=ARCH, patch_size=4, img_size=32, **SWL)
    )
    out = model(torch.randn(2, 3, 30, 41))
    assert isinstance(out, tuple) and len(out) == 1
    assert out[0].shape == (2, 16, 8, 11)
    assert out[0].is_contiguous(memory_format=torch.channels_last)


def test_windows_and_shift_add_no_parameter():
    names = build().state_dict().keys()
    assert build(**SWL).state_dict().keys() == names
    assert {
        'patch_embed.proj.weight',
        'pos_embed',
        'norm.weight',
        'blocks.0.norm1.weight',
        'blocks.3.attn.qkv.bias',
        'blocks.3.attn.proj.weight',
        'blocks.3.mlp.fc1.weight',
        'blocks.3.mlp.fc2.bias',
    } <= set(names)


def test_options_of_public_towers():
    model = build(
        class_token=True, pre_norm=True, act='quick_gelu', patch_bias=False
    )
    names = set(model.state_dict())
    assert {'cls_token', 'norm_pre.weight'} <= names
    assert 'patch_embed.proj.bias' not in names
    assert model(torch.randn(1, 3, 32, 32))[0].shape == (1, 16, 8, 8)
    x = torch.randn(5)
    torch.testing.assert_close(QuickGELU()(x), x / (1 + torch.exp(-1.702 * x)))


def test_the_class_token_takes_part():
    model = build(class_token=True).eval()
    img = torch.randn(1, 3, 32, 32)
    before = model(img)[0]
    torch.nn.init.normal_(model.cls_token, std=5)
    assert (model(img)[0] - before).abs().max() > 1e-5


def test_conv_stem():
    stem = dict(type='DITOConvStem', channels=[8, 12])
    model = build(patch_embed=stem, **SWL)
    assert model(torch.randn(1, 3, 30, 32))[0].shape == (1, 16, 8, 8)
    with pytest.raises(ValueError, match='stride 8'):
        build(patch_embed=dict(type='DITOConvStem', channels=[8, 8, 8]))
    with pytest.raises(ValueError, match='empty'):
        build(patch_embed=dict(type='DITOConvStem', channels=[]))


def test_given_positions_replace_the_learnt_ones():
    model = build(**SWL).eval()
    img = torch.randn(2, 3, 32, 32)
    own = model.pos_embed.view(1, 8, 8, 16)
    assert (model(img, own)[0] == model(img)[0]).all()
    each = torch.stack([own[0], torch.randn(8, 8, 16)])
    out = model(img, each)[0]
    torch.testing.assert_close(out[0], model(img)[0][0])
    torch.testing.assert_close(out[1], model(img, each[1:])[0][1])


@pytest.mark.parametrize(
    'kwargs', [dict(), SWL, dict(SWL, swl_batched=False, class_token=True)]
)
def test_checkpointing_keeps_gradients(kwargs):
    img = torch.randn(1, 3, 32, 32)
    grads = []
    for with_cp in (False, True):
        model = build(with_cp=with_cp, **kwargs)
        model(img)[0].square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('stages', [-1, 0, 2, 4])
def test_frozen_stages(stages):
    model = build(
        frozen_stages=stages, class_token=True, pre_norm=True, **SWL
    ).train()
    out = model(torch.randn(1, 3, 32, 32))[0]
    assert out.requires_grad == (stages < 4)
    if out.requires_grad:
        (out * torch.randn_like(out)).sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith('blocks.'):
            frozen = int(name.split('.')[1]) < stages
        elif name.startswith('norm.'):
            frozen = stages == 4
        else:
            frozen = stages >= 0
        assert parameter.requires_grad is not frozen, name
        assert (parameter.grad is None) == frozen, name
    assert [block.training for block in model.blocks] == [
        number >= stages for number in range(4)
    ]
    assert model.patch_embed.training == (stages < 0)


@pytest.mark.parametrize('kwargs', [dict(), SWL])
def test_bfloat16(kwargs):
    model = build(**kwargs).eval()
    img = torch.randn(1, 3, 20, 32)
    wanted = model(img)[0]
    with torch.autocast('cpu', torch.bfloat16):
        out = model(img)[0]
    assert (out.float() - wanted).abs().max() < 0.1
    half = copy.deepcopy(model).bfloat16()(img.bfloat16())[0]
    assert half.dtype == torch.bfloat16
    assert (half.float() - wanted).abs().max() < 0.1


@pytest.mark.parametrize('kwargs', [dict(), SWL])
def test_traced_and_exported_towers_agree(kwargs):
    model = build(**kwargs).eval().requires_grad_(False)
    img = torch.randn(1, 3, 32, 32)
    wanted = model(img)[0]
    traced = torch.jit.trace(model, img)
    torch.testing.assert_close(traced(img + 1)[0], model(img + 1)[0])
    exported = torch.export.export(model, (img,)).module()
    torch.testing.assert_close(exported(img)[0], wanted)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(window=dict(size=0)), 'window'),
        (dict(window=dict(size=2, grid=2)), 'window'),
        (dict(window=dict(side=2)), 'window'),
        (dict(shift='swl'), 'needs windows'),
        (dict(SWL, shift='both'), "shift='both'"),
        (dict(SWL, shift_size=-1), 'shift_size=-1'),
        (dict(window=dict(size=2), global_layers=5), 'global_layers=5'),
        (
            dict(SWL, shift='swin', pos_embed_after_shift=True),
            'pos_embed_after',
        ),
        (dict(act='relu'), "act='relu'"),
        (dict(frozen_stages=5), 'frozen_stages=5'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


@pytest.mark.parametrize(
    'arch, message',
    [
        ('giant', "arch='giant'"),
        (dict(embed_dims=16), 'needs'),
        (dict(ARCH, depth=3), 'depth'),
        (dict(ARCH, num_heads=3), 'not divisible'),
    ],
)
def test_wrong_sizes(arch, message):
    with pytest.raises(ValueError, match=message):
        DITOViT(arch)


def test_epsilon_of_the_release_reaches_every_norm():
    for epsilon, kwargs in ((1e-6, {}), (1e-5, dict(norm_eps=1e-5))):
        model = DITOViT(
            dict(embed_dims=16, num_layers=2, num_heads=2),
            img_size=32,
            **kwargs,
        )
        norms = [
            m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)
        ]
        assert len(norms) == 5
        assert {norm.eps for norm in norms} == {epsilon}
