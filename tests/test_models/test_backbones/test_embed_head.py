# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Poolings of public towers, projections and value-only maps."""

import copy

import pytest
import torch
from timm.layers import AttentionPoolLatent

from dito.models.backbones import DITOViT, EmbedHead
from dito.models.backbones.embed_head import AttentionPool
from dito.models.protocols import embed_cells

ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, mlp_ratio=2)
TOWERS = dict(
    avg=dict(),
    projected=dict(head=dict(out_dims=6)),
    late_norm=dict(head=dict(norm=True, out_dims=6, proj_bias=True)),
    token=dict(
        class_token=True, pre_norm=True, head=dict(pool='token', out_dims=6)
    ),
    attn_pool=dict(layer_scale=0.5, head=dict(pool='attn_pool')),
)


def build(name='avg', **kwargs):
    torch.manual_seed(0)
    model = DITOViT(
        ARCH, patch_size=4, img_size=32, **{**TOWERS[name], **kwargs}
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize('length', [1, 9])
def test_attention_pool_equals_timm(length):
    want = AttentionPoolLatent(
        16,
        num_heads=4,
        mlp_ratio=2,
        act_layer=(torch.nn.GELU),
        norm_layer=torch.nn.LayerNorm,
    )
    got = AttentionPool(16, 4, 2, 'gelu', 1e-5)
    for parameter in want.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    got.load_state_dict(want.state_dict())
    x = torch.randn(3, length, 16)
    torch.testing.assert_close(got(x), want(x), atol=1e-5, rtol=1e-5)


def test_attention_pool_has_all_gradients():
    pool = AttentionPool(16, 4, 2, 'gelu', 1e-5)
    pool(torch.randn(3, 9, 16)).sum().backward()
    assert all(p.grad is not None for p in pool.parameters())


def test_default_head_is_the_mean_without_parameters():
    model, image = build(), torch.randn(2, 3, 32, 24)
    assert not list(model.head.parameters())
    feat = model(image)[0]
    assert model.embed(image).equal(feat.mean(dim=(2, 3)))
    torch.testing.assert_close(
        model.embed_regions(feat[:, :, :3, 1:4]),
        feat[:, :, :3, 1:4].mean(dim=(2, 3)),
    )
    torch.testing.assert_close(embed_cells(model, feat), feat)


def test_projection_comes_after_the_mean():
    model, image = build('projected'), torch.randn(2, 3, 32, 32)
    want = model(image)[0].mean(dim=(2, 3)) @ model.head.proj.weight.T
    torch.testing.assert_close(model.embed(image), want)
    cells = embed_cells(model, model(image)[0])
    assert cells.shape == (2, 6, 8, 8)
    torch.testing.assert_close(
        cells.mean(dim=(2, 3)), want, atol=1e-5, rtol=1e-5
    )


def test_norm_after_the_mean():
    model, image = build('late_norm'), torch.randn(2, 3, 32, 32)
    assert 'norm.weight' not in model.state_dict()
    mean = model(image)[0].mean(dim=(2, 3))
    torch.testing.assert_close(
        model.embed(image), model.head.proj(model.head.norm(mean))
    )


@pytest.mark.parametrize(
    'name', ['avg', 'projected', 'late_norm', 'attn_pool']
)
def test_the_whole_map_as_a_region_is_the_image(name):
    model, image = build(name), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        model.embed_regions(model(image)[0]), model.embed(image)
    )


def test_token_pool_reads_the_class_token():
    model, image = build('token'), torch.randn(2, 3, 32, 32)
    assert model.head.dense == 'value'
    tokens = model.patch_embed(image).flatten(2).transpose(1, 2)
    tokens = torch.cat(
        [model.cls_token.expand(2, -1, -1), tokens + model.pos_embed], dim=1
    )
    x = model.norm_pre(tokens).flatten(0, 1)
    for block in model.blocks:
        x = block(x, ((2, 65),))
    token = model.norm(x.view(2, 65, -1)[:, 0])
    torch.testing.assert_close(
        model.embed(image), model.head.proj(token), atol=1e-5, rtol=1e-5
    )


def value_only_map(model, image):
    """MaskCLIP with loops: the last layer's values, token by token."""
    x = model.patch_embed(image).flatten(2).transpose(1, 2) + model.pos_embed
    if model.cls_token is not None:
        x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1)
    x = model.norm_pre(x)
    batch, length, dims = x.shape
    x = x.flatten(0, 1)
    for block in model.blocks[:-1]:
        x = block(x, ((batch, length),))
    x, last = x.view(batch, length, dims), model.blocks[-1]
    out = torch.empty(batch, length, dims)
    for b in range(batch):
        for i in range(length):
            value = last.attn.qkv(last.norm1(x[b, i]))[2 * dims :]
            y = x[b, i] + last.ls1(last.attn.proj(value))
            out[b, i] = model.norm(y + last.ls2(last.mlp(last.norm2(y))))
    out = out[:, length - 64 :]
    return out.transpose(1, 2).unflatten(2, (8, 8))


@pytest.mark.parametrize('name', ['token', 'avg', 'attn_pool'])
def test_value_only_map_equals_a_naive_one(name):
    head = {**TOWERS[name].get('head', {}), 'dense': 'value'}
    model, image = build(name, head=head), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        model(image)[0], value_only_map(model, image), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    'windows',
    [
        dict(window=dict(size=4), global_layers=[2]),
        dict(window=dict(size=4), global_layers=[0]),
        dict(window=dict(size=4), global_layers=[1], shift='swl'),
        dict(
            window=dict(size=4),
            global_layers=[1],
            shift='swl',
            swl_batched=False,
        ),
        dict(window=dict(size=4), global_layers='all', shift='swl'),
    ],
)
def test_value_only_map_with_windows(windows):
    """The last layer works token by token, whatever the windows."""
    model = build('token', **windows)
    twin = copy.deepcopy(model)
    twin.head.dense = 'avg'
    # With keys of zero length attention is uniform; with values alike in
    # all tokens, uniform attention and none at all agree.
    for tower in (model, twin):
        last = tower.blocks[-1]
        torch.nn.init.zeros_(last.norm1.weight)
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        model(image)[0], twin(image)[0], atol=1e-5, rtol=1e-5
    )


def test_value_only_map_differs_and_has_all_gradients():
    model, image = build('token'), torch.randn(1, 3, 32, 32)
    twin = build('token', head=dict(pool='token', dense='avg', out_dims=6))
    assert not torch.allclose(model(image)[0], twin(image)[0], atol=1e-2)
    model.head.requires_grad_(False)
    model(image)[0].sum().backward()
    assert all(
        (p.grad is not None) == p.requires_grad for p in model.parameters()
    )


def test_embeddings_stay_float32_under_autocast():
    model, feat = build('attn_pool'), torch.randn(2, 16, 4, 4)
    want = model.embed_regions(feat)
    with torch.autocast('cpu', torch.bfloat16):
        assert model.embed_regions(feat).equal(want)


def test_frozen_tower_freezes_its_head():
    model = build('token', frozen_stages=3)
    assert not any(p.requires_grad for p in model.parameters())
    assert any(
        p.requires_grad
        for p in build('token', frozen_stages=2).head.parameters()
    )


@pytest.mark.parametrize(
    'head, message',
    [
        (dict(pool='max'), "pool='max' is not known"),
        (dict(dense='qk'), "dense='qk' is not known"),
        (dict(dense='attn_pool'), 'needs a tower that pools by attention'),
        (dict(pool='token'), 'needs class_token=True'),
        (
            dict(pool='attn_pool', num_heads=3),
            'not divisible by the num_heads=3',
        ),
    ],
)
def test_heads_that_cannot_be_are_refused(head, message):
    with pytest.raises(ValueError, match=message):
        DITOViT(ARCH, patch_size=4, img_size=32, head=head)


def test_dense_follows_the_pooling():
    assert EmbedHead(8).dense == 'avg'
    assert EmbedHead(8, 'token').dense == 'value'
    assert EmbedHead(8, 'attn_pool').dense == 'attn_pool'
    assert EmbedHead(8, 'attn_pool', dense='avg').dense == 'avg'
