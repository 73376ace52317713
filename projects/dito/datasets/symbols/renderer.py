# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures of one symbol or of several that overlap."""

from dataclasses import dataclass, field
from typing import List, Optional, Sequence, Tuple

import cv2
import numpy as np

from .backgrounds import draw_background, stroke_mask
from .palette import contrasting_background, jittered_colour
from .rasterizer import GlyphAtlas

_ANGLE = 20.0
# Places tried for an object; the box of any other may be covered by so much.
_CROWDING = (0.1,) * 4 + (0.25,) * 4 + (0.6,) * 8
# While objects are placed none may lose more than this of its pixels.
_KEPT = 0.4


@dataclass
class Placed:
    """One object of a picture.

    Args:
        index (int): Position of its glyph in the atlas.
        colour (str): Name of its colour.
        total (int): Pixels of its glyph, hidden ones included.
        mask (np.ndarray): Visible pixels, (size, size) bool.
    """

    index: int
    colour: str
    total: int
    mask: np.ndarray

    @property
    def visible(self) -> float:
        """Visible share of its pixels, in [0, 1]."""
        return float(self.mask.sum()) / max(self.total, 1)

    def bbox(self) -> Tuple[int, int, int, int]:
        """Return the box of the visible pixels as x, y, w, h."""
        rows = np.flatnonzero(self.mask.any(axis=1))
        cols = np.flatnonzero(self.mask.any(axis=0))
        if not rows.size:
            return 0, 0, 0, 0
        x, y = int(cols[0]), int(rows[0])
        return x, y, int(cols[-1]) - x + 1, int(rows[-1]) - y + 1


@dataclass
class Picture:
    """A rendered picture and what is in it.

    Args:
        image (np.ndarray): RGB, (size, size, 3), uint8.
        objects (list[Placed]): The painted objects, back to front.
    """

    image: np.ndarray
    objects: List[Placed] = field(default_factory=list)

    def jpeg(self, quality: int = 90) -> bytes:
        """Encode the picture as JPEG bytes."""
        bgr = cv2.cvtColor(self.image, cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(
            '.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        if not done:
            raise ValueError(
                f'OpenCV could not encode a {self.image.shape} picture.'
            )
        return data.tobytes()


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


def _corner(
    alpha: np.ndarray, size: int, rng: np.random.Generator
) -> Tuple[int, int]:
    y = int(rng.integers(size - alpha.shape[0] + 1))
    x = int(rng.integers(size - alpha.shape[1] + 1))
    return x, y


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
    x, y = _corner(alpha, size, rng)
    _blend(image, alpha, jittered_colour(colour, rng), x, y)
    mask = np.zeros((size, size), bool)
    mask[y : y + alpha.shape[0], x : x + alpha.shape[1]] = alpha > 127
    placed = Placed(index, colour, int(mask.sum()), mask)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return Picture(pixels, [placed])


class _Canvas:
    """Keeps who owns each pixel while objects cover one another."""

    def __init__(self, size: int) -> None:
        self.owner = np.full((size, size), -1, np.int16)
        self.totals: List[int] = []
        self.seen: List[int] = []
        self.boxes: List[Tuple[int, int, int, int]] = []

    def crowding(self, shape: Tuple[int, int], x: int, y: int) -> float:
        """Return the largest share of a box that another box covers."""
        height, width = shape
        share = 0.0
        for left, top, right, bottom in self.boxes:
            across = min(right, x + width) - max(left, x)
            down = min(bottom, y + height) - max(top, y)
            smaller = min(width * height, (right - left) * (bottom - top))
            share = max(share, max(across, 0) * max(down, 0) / smaller)
        return share

    def losses(self, solid: np.ndarray, x: int, y: int) -> np.ndarray:
        """Count the pixels each object would lose, shape (n,)."""
        area = self.owner[y : y + solid.shape[0], x : x + solid.shape[1]]
        hit = area[solid]
        return np.bincount(hit[hit >= 0], minlength=len(self.totals))

    def accepts(self, losses: np.ndarray) -> bool:
        """Tell whether everything below stays visible enough."""
        left = np.array(self.seen) - losses
        return bool(np.all(left >= _KEPT * np.array(self.totals)))

    def claim(
        self, solid: np.ndarray, x: int, y: int, losses: np.ndarray
    ) -> None:
        """Give the pixels of a new object to it."""
        area = self.owner[y : y + solid.shape[0], x : x + solid.shape[1]]
        area[solid] = len(self.totals)
        self.seen = list(np.array(self.seen, int) - losses)
        self.totals.append(int(solid.sum()))
        self.seen.append(self.totals[-1])
        height, width = solid.shape
        self.boxes.append((x, y, x + width, y + height))


def _place(
    canvas: _Canvas,
    alpha: np.ndarray,
    rng: np.random.Generator,
) -> Optional[Tuple[int, int]]:
    """Find a corner (x, y) for a mask and claim it; None if it is full."""
    solid = alpha > 127
    size = canvas.owner.shape[0]
    for limit in _CROWDING:
        x, y = _corner(alpha, size, rng)
        if canvas.crowding(alpha.shape, x, y) > limit:
            continue
        losses = canvas.losses(solid, x, y)
        if canvas.accepts(losses):
            canvas.claim(solid, x, y, losses)
            return x, y
    return None


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
    canvas = _Canvas(size)
    painted: List[Tuple[int, str]] = []
    for index, colour in zip(indices, colours, strict=True):
        side = rng.uniform(*sides)
        alpha = atlas.mask(index, side, rng.uniform(-_ANGLE, _ANGLE))
        alpha = _fit(alpha, size)
        corner = _place(canvas, alpha, rng)
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
