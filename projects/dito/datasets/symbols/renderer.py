# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures of one symbol or of several that overlap."""

from typing import List, Sequence, Tuple

import cv2
import numpy as np

from .backgrounds import draw_background, stroke_mask
from .canvas import Canvas, random_corner
from .palette import contrasting_background, jittered_colour
from .picture import Picture, Placed
from .rasterizer import GlyphAtlas

_ANGLE = 20.0


def _blend(
    image: np.ndarray, alpha: np.ndarray, colour: np.ndarray, x: int, y: int
) -> None:
    """Blend a colour into (H, W, 3) float32 in place, mask at (x, y)."""
    height, width = alpha.shape
    patch = image[y : y + height, x : x + width]
    weight = alpha.astype(np.float32)[:, :, None] * np.float32(1 / 255)
    patch += weight * (colour - patch)


def _strokes(
    image: np.ndarray, count: int, reach: float, rng: np.random.Generator
) -> np.ndarray:
    """Paint distractors in place; return their pixels, (H, W) bool."""
    covered = np.zeros(image.shape[:2], bool)
    for _ in range(count):
        mask = stroke_mask(image.shape[0], rng, reach)
        colour = rng.uniform(0, 255, 3).astype(np.float32)
        x, y, width, height = cv2.boundingRect(mask)
        _blend(image, mask[y : y + height, x : x + width], colour, x, y)
        covered |= mask > 127
    return covered


def _fit(alpha: np.ndarray, size: int) -> np.ndarray:
    """Shrink a mask that is larger than the picture."""
    longest = max(alpha.shape)
    if longest <= size:
        return alpha
    sides = [max(1, int(side * size / longest)) for side in alpha.shape[::-1]]
    return cv2.resize(alpha, sides, interpolation=cv2.INTER_AREA)


def render_single(
    atlas: GlyphAtlas,
    index: int,
    colour: str,
    size: int,
    rng: np.random.Generator,
) -> Picture:
    """Draw one symbol that fills 45 to 95 % of the side.

    Args:
        atlas (GlyphAtlas): The masks.
        index (int): Position of the glyph in the atlas.
        colour (str): A named colour.
        size (int): Side of the picture in pixels.
        rng (np.random.Generator): Source of randomness.

    Returns:
        Picture: With one object.
    """
    image = draw_background(size, contrasting_background([colour], rng), rng)
    _strokes(image, int(rng.integers(0, 4)), size * 0.4, rng)
    side = rng.uniform(0.45, 0.95) * size
    alpha = atlas.mask(index, side, rng.uniform(-_ANGLE, _ANGLE))
    alpha = _fit(alpha, size)
    x, y = random_corner(alpha.shape, size, rng)
    _blend(image, alpha, jittered_colour(colour, rng), x, y)
    mask = np.zeros((size, size), bool)
    mask[y : y + alpha.shape[0], x : x + alpha.shape[1]] = alpha > 127
    placed = Placed(index, colour, int(mask.sum()), mask)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return Picture(pixels, [placed])


def render_scene(
    atlas: GlyphAtlas,
    indices: Sequence[int],
    colours: Sequence[str],
    size: int,
    sides: Tuple[float, float],
    rng: np.random.Generator,
) -> Picture:
    """Draw several symbols that may overlap, among distractor strokes.

    Some strokes lie behind the objects and a few thin ones before them. An
    object that finds no place where it leaves the others visible is left
    out of the picture.

    Args:
        atlas (GlyphAtlas): The masks.
        indices (Sequence[int]): Positions of the glyphs, back to front.
        colours (Sequence[str]): One named colour an object.
        size (int): Side of the picture in pixels.
        sides (tuple[float, float]): Range of the longest side in pixels.
        rng (np.random.Generator): Source of randomness.

    Returns:
        Picture: With one entry for every painted object, visible or not.
    """
    ground = contrasting_background(colours, rng)
    image = draw_background(size, ground, rng)
    _strokes(image, int(rng.integers(2, 7)), size * 0.4, rng)
    canvas = Canvas(size)
    painted: List[Tuple[int, str]] = []
    for index, colour in zip(indices, colours, strict=True):
        side = rng.uniform(*sides)
        alpha = atlas.mask(index, side, rng.uniform(-_ANGLE, _ANGLE))
        alpha = _fit(alpha, size)
        corner = canvas.place(alpha > 127, rng)
        shade = jittered_colour(colour, rng)
        if corner is not None:
            _blend(image, alpha, shade, *corner)
            painted.append((index, colour))
    front = _strokes(image, int(rng.integers(0, 3)), size * 0.2, rng)
    canvas.owner[front] = -1
    objects = [
        Placed(index, colour, canvas.totals[i], canvas.owner == i)
        for i, (index, colour) in enumerate(painted)
    ]
    return Picture(np.clip(image, 0, 255).astype(np.uint8), objects)
