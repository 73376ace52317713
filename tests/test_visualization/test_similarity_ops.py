# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of the pure functions of similarity maps, against loops."""

import math

import numpy as np
import torch

from dito.apis.similarity import cosine_maps, peak_in_box, sliding_boxes
from dito.visualization import draw_heat_map
from dito.visualization.drawing import stretch


def cosine(a: list, b: list) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_cosine_maps():
    features, text = torch.randn(6, 3, 4), torch.randn(2, 6)
    maps = cosine_maps(features, text)
    assert maps.shape == (2, 3, 4)
    for t in range(2):
        for y in range(3):
            for x in range(4):
                wanted = cosine(features[:, y, x].tolist(), text[t].tolist())
                assert abs(float(maps[t, y, x]) - wanted) < 1e-6
    halves = cosine_maps(features.bfloat16(), text.bfloat16())
    assert halves.dtype == torch.float32


def test_sliding_boxes():
    boxes = sliding_boxes((3, 5), 8, 3, (20, 37)).tolist()
    assert len(boxes) == 15
    for y in range(3):
        for x in range(5):
            wanted = (
                8 * x + 4 - 12,
                8 * y + 4 - 12,
                8 * x + 4 + 12,
                8 * y + 4 + 12,
            )
            limits = (37, 20, 37, 20)
            wanted = [
                min(max(v, 0), m) for v, m in zip(wanted, limits, strict=True)
            ]
            assert boxes[5 * y + x] == wanted


def test_peak_in_box():
    values = np.zeros((4, 8))
    values[1, 6] = 1
    # The centre of that cell in a picture of 40 x 160 pixels: (130, 15).
    assert peak_in_box(values, (129, 14, 131, 16), (40, 160))
    assert not peak_in_box(values, (129, 16, 131, 18), (40, 160))
    assert not peak_in_box(values, (131, 14, 133, 16), (40, 160))


def test_heat_maps_have_one_rule_of_colours():
    values = np.array([[0.2, 0.3], [0.4, 0.6]])
    np.testing.assert_allclose(
        stretch(values), [[0, 0.25], [0.5, 1]], atol=1e-6
    )
    assert (stretch(np.full((2, 2), 3.0)) == 0).all()
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    first = draw_heat_map(image, values, 2)
    assert first.shape == (32, 32, 3)
    # Neither the range nor the offset of the cosines changes the picture.
    # (Rounding may choose the neighbouring colour.)
    again = draw_heat_map(image, 3 * values - 1, 2)
    np.testing.assert_allclose(first.astype(int), again.astype(int), atol=3)
    grey = np.full((16, 16, 3), 100, np.uint8)
    heat = draw_heat_map(grey, values).astype(int)
    assert heat[15, 15].sum() > heat[15, 0].sum() > heat[0, 0].sum()
