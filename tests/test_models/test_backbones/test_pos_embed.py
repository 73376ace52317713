# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import pytest
import torch
from golden_arrays import ROUNDING, close, golden_cases

from dito.models.backbones import (
    crop_pos_embed,
    random_crop_boxes,
    resize_pos_embed,
)


@pytest.mark.parametrize(
    'key', golden_cases('cpe', r'(resize/out/\d+_to_\d+x\d+)')
)
def test_resize_equals_the_release(golden, key):
    arrays = golden('cpe')
    wanted = arrays[key]
    side = int(key.split('/')[-1].split('_')[0])
    pos = torch.from_numpy(arrays['official/in/pos_emb'])
    got = resize_pos_embed(pos.view(1, side, side, -1), wanted.shape[1:3])
    close(got, wanted, ROUNDING)


def test_resize_is_float32_and_does_nothing_at_the_same_size():
    pos = torch.randn(1, 3, 5, 4, dtype=torch.bfloat16)
    resized = resize_pos_embed(pos, (3, 5))
    assert resized.dtype == torch.float32
    assert (resized == pos.float()).all()


@pytest.mark.parametrize('prefix', ['', 'official/'])
def test_crop_equals_the_release(golden, prefix):
    arrays = golden('cpe')
    grid, up = (
        int(arrays[f'{prefix}cfg/{k}'])
        for k in ('pos_emb_size', 'up_pos_emb_size')
    )
    pos = torch.from_numpy(arrays[f'{prefix}in/pos_emb'])
    boxes = torch.from_numpy(arrays[f'{prefix}in/crop_region'])[:, 0]
    out = crop_pos_embed(pos.view(1, grid, grid, -1), boxes, up, grid)
    # Weights are fractions of cells of the upsampled grid.
    close(out.flatten(1, 2), arrays[f'{prefix}out/cropped'], 1e-7 * up)


def test_crop_equals_sampling_the_upsampled_grid():
    pos = torch.randn(1, 3, 5, 2)
    boxes = torch.tensor(
        [[1.3, 0.0, 7.9, 4.2], [0.0, 0.0, 8.0, 8.0], [7.2, 6.1, 8.0, 8.0]]
    )
    out = crop_pos_embed(pos, boxes, up_size=8, out_size=4)
    grid = resize_pos_embed(pos, (8, 8))[0]
    for image, (y1, x1, y2, x2) in enumerate(boxes.tolist()):
        for i in range(4):
            for j in range(4):
                y = y1 + (i + 0.5) * (y2 - y1) / 4
                x = x1 + (j + 0.5) * (x2 - x1) / 4
                fy, fx = y - int(y), x - int(x)
                wanted = 0
                for row, wy in ((int(y), 1 - fy), (int(y) + 1, fy)):
                    for column, wx in ((int(x), 1 - fx), (int(x) + 1, fx)):
                        wanted = (
                            wanted
                            + wy * wx * grid[min(row, 7), min(column, 7)]
                        )
                torch.testing.assert_close(
                    out[image, i, j], wanted, atol=1e-5, rtol=1e-5
                )


def test_crop_passes_gradients():
    pos = torch.randn(1, 4, 4, 3, requires_grad=True)
    crop_pos_embed(pos, random_crop_boxes(2, 16), 16, 4).sum().backward()
    # Interpolation weights of one sample sum to one.
    torch.testing.assert_close(pos.grad.sum(), torch.tensor(2.0 * 4 * 4 * 3))


def test_random_boxes_keep_their_ranges():
    boxes = random_crop_boxes(4000, 64)
    assert boxes.shape == (4000, 4)
    assert boxes.min() >= 0 and boxes.max() <= 64 + 1e-4
    height, width = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    area, ratio = height * width / 64**2, width / height
    assert area.min() >= 0.1 - 1e-4 and area.max() <= 1 + 1e-4
    assert ratio.min() >= 0.5 - 1e-4 and ratio.max() <= 2 + 1e-4
    # All of both ranges is used, and no direction is preferred.
    assert area.min() < 0.12 and area.max() > 0.95
    assert abs(ratio.log().mean()) < 0.05
    middle = (boxes[:, :2] + boxes[:, 2:]).mean(0) / 2
    assert (middle - 32).abs().max() < 1


def test_random_boxes_follow_their_generator():
    draws = [
        random_crop_boxes(5, 64, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


def test_random_boxes_that_never_fit_are_the_whole_grid():
    boxes = random_crop_boxes(3, 8, scale=(1.0, 1.0), ratio=(2.0, 2.1))
    assert boxes.tolist() == [[0, 0, 8, 8]] * 3
