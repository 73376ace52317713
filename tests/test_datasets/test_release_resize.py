# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Resizing and padding as in the release."""

import math

import numpy as np
import pytest
import torch
from mmdet.registry import TRANSFORMS

from dito.datasets.load_image import CLIP_MEAN, legacy_bilinear


def loop(image, size):
    """Sample by sample, as TensorFlow's first resize."""
    height, width = image.shape[:2]
    out = np.zeros((*size, image.shape[2]))
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = i * height / size[0], j * width / size[1]
            top, left = math.floor(y), math.floor(x)
            for p, wy in ((top, 1 - (y - top)), (top + 1, y - top)):
                for q, wx in ((left, 1 - (x - left)), (left + 1, x - left)):
                    out[i, j] += (
                        wy * wx * image[min(p, height - 1), min(q, width - 1)]
                    )
    return out


@pytest.mark.parametrize('size', [(9, 14), (3, 2), (7, 5), (20, 4)])
def test_against_loop(size):
    image = np.random.randint(0, 256, (7, 5, 3), dtype=np.uint8)
    np.testing.assert_allclose(
        legacy_bilinear(image, size),
        loop(image.astype(float), size),
        atol=1e-3,
    )


def test_numbers_of_tensorflow():
    # tf.compat.v1.image.resize_images([[0, 30, 60]], (1, 4))
    image = np.float32([[[0], [30], [60]]])
    np.testing.assert_allclose(
        legacy_bilinear(image, (1, 4))[0, :, 0], [0, 22.5, 45, 60], atol=1e-5
    )


def transform(image, **kwargs):
    step = TRANSFORMS.build(dict(type='DITOReleaseResize', **kwargs))
    return step(dict(img=image, img_shape=image.shape[:2]))


@pytest.mark.parametrize(
    'shape, new',
    [
        ((40, 60), (43, 64)),
        ((200, 120), (64, 38)),
        ((64, 64), (64, 64)),
        ((1, 300), (1, 64)),
    ],
)
def test_square_with_padding(shape, new):
    image = np.random.randint(0, 256, (*shape, 3), dtype=np.uint8)
    out = transform(image, size=64, bfloat16=False)
    assert out['img'].shape == (64, 64, 3)
    assert out['img'].dtype == np.float32
    # Boxes are clipped to the square.
    assert out['img_shape'] == (64, 64)
    assert out['scale_factor'] == (new[1] / shape[1], new[0] / shape[0])
    np.testing.assert_array_equal(
        out['img'][: new[0], : new[1]], legacy_bilinear(image, new)
    )
    padding = np.float32(CLIP_MEAN[::-1]) * 255
    assert (out['img'][new[0] :] == padding).all()
    assert (out['img'][:, new[1] :] == padding).all()


def test_pixels_are_bfloat16_in_0_to_1():
    image = np.random.randint(0, 256, (8, 8, 3), dtype=np.uint8)
    exact = transform(image, size=16, bfloat16=False)['img']
    got = torch.from_numpy(transform(image, size=16)['img']) / 255
    # Half a unit in the last of 8 bits, relative to the pixel.
    assert (got - exact / 255).abs().max() <= 2**-9
    torch.testing.assert_close(got, got.bfloat16().float(), rtol=2e-7, atol=0)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match='size must be at least 1'):
        transform(np.zeros((2, 2, 3), np.uint8), size=0)
