# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Textured backgrounds and clutter that no category looks like."""

from typing import Callable, Tuple

import cv2
import numpy as np

Texture = Callable[[int, np.random.Generator], np.ndarray]


def _blotches(size: int, rng: np.random.Generator) -> np.ndarray:
    cells = int(rng.integers(3, 10))
    coarse = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
    # Mostly brightness, a little hue: a texture, not confetti.
    coarse = 0.7 * coarse.mean(axis=2, keepdims=True) + 0.5 * coarse
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _gradient(size: int, rng: np.random.Generator) -> np.ndarray:
    corners = rng.uniform(-1, 1, (2, 2, 3)).astype(np.float32)
    return cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)


def _waves(size: int, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, np.pi)
    period = rng.uniform(0.08, 0.5) * size
    axis = np.arange(size, dtype=np.float32) * (2 * np.pi / period)
    phase = axis[None] * np.cos(angle) + axis[:, None] * np.sin(angle)
    wave = np.sin(phase + rng.uniform(0, 6.28)).astype(np.float32)
    tint = rng.uniform(0.4, 1.0, 3).astype(np.float32)
    return wave[:, :, None] * tint


def _weave(size: int, rng: np.random.Generator) -> np.ndarray:
    period = rng.uniform(0.1, 0.4, 2) * size
    axis = np.arange(size, dtype=np.float32) * (2 * np.pi)
    shift = rng.uniform(0, 6.28, 2)
    rows = np.sin(axis / period[0] + shift[0])
    cols = np.sin(axis / period[1] + shift[1])
    tint = rng.uniform(0.4, 1.0, 3).astype(np.float32)
    return np.outer(rows, cols).astype(np.float32)[:, :, None] * tint


_TEXTURES: Tuple[Texture, ...] = (_blotches, _gradient, _waves, _weave)


def draw_background(
    size: int, colour: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Paint a textured background.

    Args:
        size (int): Side of the square in pixels.
        colour (np.ndarray): Mean RGB, shape (3,).
        rng (np.random.Generator): Source of randomness.

    Returns:
        np.ndarray: RGB, shape (size, size, 3), float32, about [0, 255].
    """
    texture = _TEXTURES[int(rng.integers(len(_TEXTURES)))]
    image = texture(size, rng) * np.float32(rng.uniform(6, 30))
    grain = rng.integers(-128, 128, (size, size, 1), dtype=np.int16)
    image += grain.astype(np.float32) * np.float32(rng.uniform(0, 0.09))
    image += colour.astype(np.float32)
    return image


def stroke_mask(
    size: int, rng: np.random.Generator, reach: float
) -> np.ndarray:
    """Draw one distractor: a bent line, an arc or an irregular blob.

    Args:
        size (int): Side of the picture in pixels.
        rng (np.random.Generator): Source of randomness.
        reach (float): Largest extent in pixels.

    Returns:
        np.ndarray: Coverage, shape (size, size), uint8.
    """
    mask = np.zeros((size, size), np.uint8)
    centre = rng.uniform(0, size, 2)
    thick = int(rng.integers(1, max(2, round(size / 40)) + 1))
    kind = int(rng.integers(3))
    if kind == 0:
        points = centre + rng.uniform(-0.5, 0.5, (4, 2)) * reach
        cv2.polylines(
            mask, [points.astype(np.int32)], False, 255, thick, cv2.LINE_AA
        )
    elif kind == 1:
        axes = [max(2, int(a)) for a in rng.uniform(0.2, 0.5, 2) * reach]
        start = int(rng.integers(360))
        sweep = int(rng.integers(40, 150))
        at = (int(centre[0]), int(centre[1]))
        turn = int(rng.integers(180))
        cv2.ellipse(
            mask,
            at,
            axes,
            turn,
            start,
            start + sweep,
            255,
            thick,
            cv2.LINE_AA,
        )
    else:
        turns = np.sort(rng.uniform(0, 2 * np.pi, 6))
        radii = rng.uniform(0.05, 0.3, 6) * reach
        around = np.stack([np.cos(turns), np.sin(turns)], axis=1)
        points = centre + around * radii[:, None]
        cv2.fillPoly(mask, [points.astype(np.int32)], 255, cv2.LINE_AA)
    return mask
