# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Windows and shifts against an oracle that rolls, pads and masks."""

import pytest
import torch

from dito.models.backbones import DITOViT

ARCH = dict(embed_dims=16, num_layers=4, num_heads=2, mlp_ratio=2)


def build(**kwargs):
    torch.manual_seed(0)
    kwargs = dict(global_layers=[1, 3], **kwargs)
    return DITOViT(ARCH, patch_size=4, img_size=32, **kwargs).eval()


def scale_up(model):
    """Make attention and positions matter: default weights are small."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'qkv.weight' in name or 'pos_embed' in name:
                parameter.mul_(20)
    return model


def attend(attn, tokens, allowed):
    """Attention of (N, C) tokens under an (N, N) mask of pairs."""
    count, channels = tokens.shape
    qkv = attn.qkv(tokens).view(count, 3, attn.num_heads, -1)
    q, k, v = qkv.permute(1, 2, 0, 3)
    logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    logits = logits.masked_fill(~allowed, float('-inf'))
    # A padded query has no key at all: its row is dropped later.
    weights = logits.softmax(-1).nan_to_num()
    return attn.proj((weights @ v).transpose(0, 1).reshape(count, channels))


def naive_layer(block, x, window, shift, mask):
    """One layer on (h, w, C): roll, pad, loop over windows, undo."""
    height, width, channels = x.shape
    shift = [
        0 if mask and side <= win else move
        for side, win, move in zip((height, width), window, shift, strict=True)
    ]
    x = torch.roll(x, shift, (0, 1))
    region = torch.zeros(height, width, dtype=torch.long)
    if mask:
        rows, columns = torch.arange(height), torch.arange(width)
        for axis, (places, move, side) in enumerate(
            ((rows, shift[0], height), (columns, shift[1], width))
        ):
            wrapped = places < move if move >= 0 else places >= side + move
            wrapped = wrapped[:, None] if axis == 0 else wrapped[None]
            region = region + wrapped.long() * (axis + 1)
    down, right = -height % window[0], -width % window[1]
    padded = torch.nn.functional.pad(x, (0, 0, 0, right, 0, down))
    region = torch.nn.functional.pad(region, (0, right, 0, down), value=-1)
    out = torch.zeros_like(padded)
    for top in range(0, height, window[0]):
        for left in range(0, width, window[1]):
            here = (slice(top, top + window[0]), slice(left, left + window[1]))
            tokens = block.norm1(padded[here].reshape(-1, channels))
            label = region[here].reshape(-1)
            allowed = (label[:, None] == label) & (label >= 0)
            out[here] = attend(block.attn, tokens, allowed).view(
                padded[here].shape
            )
    x = x + out[:height, :width]
    x = x + block.mlp(block.norm2(x))
    return torch.roll(x, [-move for move in shift], (0, 1))


def naive_pass(model, x, shifts):
    """All layers on (h, w, C); ``shifts`` has one entry a layer."""
    for number, block in enumerate(model.blocks):
        size = x.shape[:2]
        if number in model.plan.global_layers:
            x = naive_layer(block, x, size, (0, 0), False)
        else:
            window = model.plan.spec(size, False).window
            x = naive_layer(
                block, x, window, shifts[number], model.plan.shift_mask
            )
    return x


def embed(model, img, pos=None):
    patches = model.patch_embed(img).permute(0, 2, 3, 1)
    if pos is None:
        pos = model.pos_embed.view(1, 8, 8, -1)
    return patches, pos


@pytest.mark.parametrize(
    'window',
    [dict(size=4), dict(grid=2), dict(size=3), dict(grid=3), dict(size=10)],
)
@pytest.mark.parametrize(
    'batched, after',
    [(True, False), (False, False), (True, True), (False, True)],
)
def test_swl_equals_the_masked_oracle(window, batched, after):
    model = scale_up(
        build(
            window=window,
            shift='swl',
            swl_batched=batched,
            average_after_norm=after,
        )
    )
    torch.nn.init.normal_(model.norm.weight)
    torch.nn.init.normal_(model.norm.bias)
    img = torch.randn(2, 3, 32, 32)
    patches, pos = embed(model, img)
    wanted = []
    for x in patches + pos:
        shift = model.plan.spec((8, 8), True).shift
        plain = naive_pass(model, x, [(0, 0)] * 4)
        shifted = naive_pass(model, x, [shift] * 4)
        wanted.append(
            (model.norm(plain) + model.norm(shifted)) / 2
            if after
            else model.norm((plain + shifted) / 2)
        )
    out = model(img)[0].permute(0, 2, 3, 1)
    torch.testing.assert_close(out, torch.stack(wanted), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize('shift_size', [1, 3])
@pytest.mark.parametrize('mask', [True, False])
def test_swl_rolls_down_and_right(shift_size, mask):
    # Half a window either way cuts the map at the same places: other shifts
    # tell the directions apart. Algorithm 1 rolls by +s on both axes.
    model = scale_up(
        build(
            window=dict(size=4),
            shift='swl',
            shift_size=shift_size,
            shift_mask=mask,
        )
    )
    img = torch.randn(1, 3, 32, 32)
    patches, pos = embed(model, img)
    x = (patches + pos)[0]
    plain = naive_pass(model, x, [(0, 0)] * 4)
    shifted = naive_pass(model, x, [(shift_size, shift_size)] * 4)
    torch.testing.assert_close(
        model(img)[0].permute(0, 2, 3, 1)[0],
        model.norm((plain + shifted) / 2),
        atol=2e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize('mask', [True, False])
def test_the_release_order_equals_its_oracle(mask):
    model = scale_up(
        build(
            window=dict(size=4),
            shift='swl',
            shift_size=1,
            shift_mask=mask,
            pos_embed_after_shift=True,
        )
    )
    img = torch.randn(1, 3, 32, 32)
    patches, pos = embed(model, img)
    plain = naive_pass(model, (patches + pos)[0], [(0, 0)] * 4)
    # Roll, then add positions where they are, then roll back.
    rolled = torch.roll(patches, (-1, 1), (1, 2)) + pos
    x = torch.roll(rolled, (1, -1), (1, 2))[0]
    shifted = naive_pass(model, x, [(-1, 1)] * 4)
    torch.testing.assert_close(
        model(img)[0].permute(0, 2, 3, 1)[0],
        model.norm((plain + shifted) / 2),
        atol=2e-5,
        rtol=1e-5,
    )


def test_swin_shifts_every_other_windowed_layer():
    model = scale_up(build(window=dict(size=4), shift='swin'))
    img = torch.randn(1, 3, 32, 32)
    patches, pos = embed(model, img)
    # Layers 0 and 2 have windows: the second of them is shifted.
    shifts = [(0, 0), (0, 0), (2, 2), (0, 0)]
    wanted = model.norm(naive_pass(model, (patches + pos)[0], shifts))
    out = model(img)[0].permute(0, 2, 3, 1)[0]
    torch.testing.assert_close(out, wanted, atol=2e-5, rtol=1e-5)
    plain = build(window=dict(size=4))
    plain.load_state_dict(model.state_dict())
    assert (plain(img)[0] - model(img)[0]).abs().max() > 1e-2


@pytest.mark.parametrize('shift', [None, 'swl', 'swin'])
@pytest.mark.parametrize('size', [(5, 7), (8, 3), (1, 9)])
@pytest.mark.parametrize('window', [dict(size=4), dict(grid=3)])
def test_odd_maps_attend_to_real_tokens_only(shift, size, window):
    model = scale_up(build(window=window, shift=shift))
    img = torch.randn(1, 3, size[0] * 4, size[1] * 4)
    pos = torch.randn(1, *size, 16)
    x = (embed(model, img, pos)[0] + pos)[0]
    none, move = (0, 0), model.plan.spec(size, True).shift
    turns = dict(swl=[move] * 4, swin=[none, none, move, none])
    wanted = naive_pass(model, x, turns.get(shift, [none] * 4))
    if shift == 'swl':
        wanted = (wanted + naive_pass(model, x, [none] * 4)) / 2
    out = model(img, pos)[0].permute(0, 2, 3, 1)[0]
    torch.testing.assert_close(out, model.norm(wanted), atol=2e-5, rtol=1e-5)


def test_wrapped_tokens_do_not_meet_the_other_side():
    img = torch.randn(1, 3, 32, 32)
    other = img.clone()
    other[..., :4] += 1  # The first column of tokens.
    for mask in (True, False):
        model = scale_up(
            DITOViT(
                ARCH,
                patch_size=4,
                img_size=32,
                window=dict(size=4),
                global_layers=0,
                shift='swl',
                shift_mask=mask,
            ).eval()
        )
        change = (model(img)[0] - model(other)[0]).abs().amax((0, 1, 2))
        # Columns 0..3 share a window, 0..1 the shifted one's left half; in
        # four layers that reaches no further than column 3 without wrap.
        assert (change[:4] > 0).all()
        assert (change[4:6] == 0).all()
        assert (change[6:] == 0).all() == mask


def test_two_passes_of_global_layers_are_one():
    kwargs = dict(patch_size=4, img_size=32, global_layers='all')
    torch.manual_seed(0)
    plain = DITOViT(ARCH, **kwargs).eval()
    twice = DITOViT(ARCH, window=dict(size=4), shift='swl', **kwargs).eval()
    twice.load_state_dict(plain.state_dict())
    img = torch.randn(1, 3, 32, 32)
    assert (plain(img)[0] == twice(img)[0]).all()


def test_no_shift_is_the_plain_pass():
    plain = build(window=dict(size=4))
    img = torch.randn(2, 3, 20, 28)
    for kwargs in (
        dict(shift='swl', shift_size=0),
        dict(shift='swin', shift_size=0),
        dict(
            shift='swl',
            shift_size=0,
            shift_mask=False,
            pos_embed_after_shift=True,
        ),
    ):
        model = build(window=dict(size=4), **kwargs)
        model.load_state_dict(plain.state_dict())
        torch.testing.assert_close(model(img)[0], plain(img)[0])


def test_grid_and_size_agree_where_equal():
    img = torch.randn(2, 3, 32, 32)
    for shift in (None, 'swl', 'swin'):
        a = build(window=dict(size=4), shift=shift)
        b = build(window=dict(grid=2), shift=shift)
        assert (a(img)[0] == b(img)[0]).all()


def test_a_window_as_large_as_the_map_is_global():
    img = torch.randn(2, 3, 32, 32)
    wide = build(window=dict(grid=1))
    whole = build(window=None)
    torch.testing.assert_close(wide(img)[0], whole(img)[0])


@pytest.mark.parametrize('class_token', [False, True])
@pytest.mark.parametrize('after', [False, True])
def test_batched_and_sequential_passes_agree(after, class_token):
    kwargs = dict(
        window=dict(size=4),
        shift='swl',
        class_token=class_token,
        pos_embed_after_shift=after,
    )
    img = torch.randn(2, 3, 28, 36)
    grads = []
    for batched in (True, False):
        model = build(swl_batched=batched, **kwargs)
        out = model(img)[0]
        out.square().mean().backward()
        grads.append([out] + [p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_images_of_a_batch_do_not_meet():
    model = scale_up(build(window=dict(size=4), shift='swl'))
    img = torch.randn(3, 3, 28, 36)
    alone = torch.cat([model(one[None])[0] for one in img])
    torch.testing.assert_close(model(img)[0], alone, atol=1e-5, rtol=1e-5)


def test_every_window_has_its_own_class_token():
    model = scale_up(
        build(window=dict(grid=2), class_token=True)
    ).requires_grad_(False)
    x = torch.randn(8, 8, 16)
    class_token = model.cls_token[0]
    quarters = []
    for rows in (x[:4], x[4:]):
        for part in (rows[:, :4], rows[:, 4:]):
            tokens = torch.cat([class_token, part.reshape(16, 16)])
            quarters.append(model.blocks[0](tokens, ((1, 17),)))
    wanted = torch.stack(quarters)
    tokens = torch.cat([class_token, x.reshape(64, 16)])[None]
    layouts = model._layouts(tokens, (8, 8), (False, False))[:1]
    out = model._run_blocks(tokens, layouts)[0]
    torch.testing.assert_close(out[0], wanted[:, 0].mean(0))
    torch.testing.assert_close(
        out[1:].view(8, 8, 16)[:4, 4:].reshape(16, 16), wanted[1, 1:]
    )


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(shift=None),
        dict(shift='swin'),
        dict(shift='swl', head=dict(norm=True)),
    ],
)
def test_averaging_after_the_norm_needs_two_passes_and_a_norm(kwargs):
    with pytest.raises(ValueError, match='average_after_norm needs'):
        build(window=dict(size=4), average_after_norm=True, **kwargs)
