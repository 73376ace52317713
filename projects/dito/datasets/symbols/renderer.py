# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures of one object or of several that overlap, lit and with shadows.

Backgrounds are like those of photographs: surfaces, light, things out of
focus. Nothing in them has a sharp outline, so nothing looks like an object.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from .rasterizer import GlyphAtlas

#: Name -> RGB (0-255). Far enough apart that the jitter keeps them apart.
COLOURS: dict[str, tuple[int, int, int]] = {
    'black': (22, 22, 24),
    'blue': (38, 84, 208),
    'green': (34, 150, 62),
    'orange': (242, 134, 22),
    'purple': (134, 52, 172),
    'red': (214, 34, 40),
    'white': (244, 244, 242),
    'yellow': (248, 220, 44),
}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)

_MIN_DISTANCE = 125.0


def jittered_colour(name: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a shade of a named colour: RGB, (3,), float32 in [0, 255]."""
    colour = np.array(COLOURS[name], np.float32)
    colour = colour * rng.uniform(0.86, 1.08) + rng.normal(0, 6, 3)
    return np.clip(colour, 0, 255).astype(np.float32)


def contrasting_background(
    names: Sequence[str], rng: np.random.Generator, tries: int = 16
) -> np.ndarray:
    """Draw a muted colour far from every named colour, RGB in [0, 255].

    Of ``tries`` candidates the farthest is taken when none is far enough.
    """
    value = rng.uniform(30, 240, (tries, 1))
    tint = 1.0 - rng.uniform(0, 0.4, (tries, 3))
    candidates = value * tint
    colours = np.array([COLOURS[name] for name in names], np.float64)
    gaps = np.linalg.norm(candidates[:, None] - colours[None], axis=2)
    nearest = gaps.min(axis=1)
    far = np.flatnonzero(nearest >= _MIN_DISTANCE)
    chosen = far[0] if far.size else int(nearest.argmax())
    return candidates[chosen].astype(np.float32)


Texture = Callable[[int, np.random.Generator], np.ndarray]


def _noise(
    size: int, cells: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Smooth noise in [-1, 1] with so many rows and columns of blotches."""
    coarse = rng.uniform(-1, 1, cells).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _plaster(size: int, rng: np.random.Generator) -> np.ndarray:
    """Blotches of several sizes, like a wall, a lawn or a cloudy sky."""
    side = int(rng.integers(2, 5))
    rough = rng.uniform(0.4, 0.8)
    texture = _noise(size, (side, side), rng)
    for octave in (1, 2, 3):
        fine = side * 3**octave
        if fine < size / 2:
            texture += np.float32(rough**octave) * _noise(
                size, (fine, fine), rng
            )
    return texture


def _grain(size: int, rng: np.random.Generator) -> np.ndarray:
    """Streaks in one direction, like wood, sand or brushed metal."""
    across = int(rng.integers(10, 40))
    along = int(rng.integers(2, 5))
    texture = _noise(size, (across, along), rng)
    texture += np.float32(0.7) * _noise(size, (across // 4, 2), rng)
    return texture if rng.integers(2) else texture.T


def _cloth(size: int, rng: np.random.Generator) -> np.ndarray:
    """Soft folds with a fine weave."""
    axis = np.arange(size, dtype=np.float32)
    angle = rng.uniform(0, np.pi)
    period = rng.uniform(0.25, 0.7) * size
    folds = axis[None] * np.float32(np.cos(angle) * 6.28 / period)
    folds = folds + axis[:, None] * np.float32(np.sin(angle) * 6.28 / period)
    bent = folds + np.float32(2) * _noise(size, (3, 3), rng)
    weave = np.sin(axis * np.float32(6.28 / rng.uniform(3, 6)))
    return np.sin(bent) + np.float32(0.25) * np.outer(weave, weave)


def _plain(size: int, rng: np.random.Generator) -> np.ndarray:
    """Almost nothing: paper, a table, the sky."""
    return _noise(size, (2, 2), rng)


_TEXTURES: tuple[Texture, ...] = (_plaster, _plaster, _grain, _cloth, _plain)


def _out_of_focus(
    size: int, colour: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Blurred spots, as differences to the colour; (size, size, 3) float32."""
    small = max(size // 4, 8)
    paint = np.zeros((small, small, 3), np.float32)
    for _ in range(int(rng.integers(1, 6))):
        x, y = (int(v) for v in rng.integers(0, small, 2))
        axes = tuple(int(v) for v in rng.uniform(0.08, 0.35, 2) * small)
        tone = rng.uniform(30, 230) * rng.uniform(0.6, 1.0, 3) - colour
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(paint, (x, y), axes, turn, 0, 360, tone.tolist(), -1)
    sigma = float(rng.uniform(0.06, 0.14)) * small
    paint *= np.float32(rng.uniform(0.15, 0.55))
    soft = cv2.GaussianBlur(paint, (0, 0), sigma)
    return cv2.resize(soft, (size, size), interpolation=cv2.INTER_LINEAR)


def draw_background(
    size: int, colour: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Paint a background on which light falls unevenly.

    (size, size, 3) float32, about [0, 255], of mean ``colour``.
    """
    texture = _TEXTURES[int(rng.integers(len(_TEXTURES)))](size, rng)
    scales = rng.uniform(0.7, 1.0, 3) * rng.uniform(6, 28)
    light = _noise(size, (2, 2), rng) * np.float32(rng.uniform(0.03, 0.2))
    # Plane by plane: several times as fast as over an axis of three.
    image = cv2.merge(
        [
            texture * np.float32(scale) + light * np.float32(mean) + mean
            for scale, mean in zip(scales, colour, strict=True)
        ]
    )
    if rng.random() < 0.6:
        image += _out_of_focus(size, colour, rng)
    return image


def finish(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a sensor's noise to (size, size, 3) float32, in place, and round."""
    noise = rng.integers(-128, 128, image.shape[:2], dtype=np.int8)
    noise = noise.astype(np.float32) * np.float32(rng.uniform(0, 0.06))
    image += cv2.merge([noise] * 3)
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


@dataclass
class Placed:
    """One object of a picture.

    ``index`` is the place of its glyph in the atlas, ``total`` its pixels,
    hidden ones included, ``mask`` the visible ones, (size, size) bool.
    """

    index: int
    colour: str
    total: int
    mask: np.ndarray

    @property
    def visible(self) -> float:
        """Visible share of its pixels, in [0, 1]."""
        return float(self.mask.sum()) / max(self.total, 1)

    def bbox(self) -> tuple[int, int, int, int]:
        """Return the box of the visible pixels as x, y, w, h."""
        rows = np.flatnonzero(self.mask.any(axis=1))
        cols = np.flatnonzero(self.mask.any(axis=0))
        if not rows.size:
            return 0, 0, 0, 0
        x, y = int(cols[0]), int(rows[0])
        return x, y, int(cols[-1]) - x + 1, int(rows[-1]) - y + 1


@dataclass
class Picture:
    """A rendered RGB picture, and its objects, back to front."""

    image: np.ndarray
    objects: list[Placed] = field(default_factory=list)

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


# Places tried for an object; the box of any other may be covered by so much.
_CROWDING = (0.1,) * 4 + (0.25,) * 4 + (0.6,) * 8
# While objects are placed none may lose more than this of its pixels.
_KEPT = 0.4


def random_corner(
    shape: tuple[int, int], size: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Draw a top left corner (x, y) that keeps a mask in the picture."""
    y = int(rng.integers(size - shape[0] + 1))
    x = int(rng.integers(size - shape[1] + 1))
    return x, y


class Canvas:
    """Keeps who owns each pixel while objects cover one another."""

    def __init__(self, size: int) -> None:
        self.owner = np.full((size, size), -1, np.int16)
        self.totals: list[int] = []
        self.seen: list[int] = []
        self.boxes: list[tuple[int, int, int, int]] = []

    def crowding(self, shape: tuple[int, int], x: int, y: int) -> float:
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

    def place(
        self, solid: np.ndarray, rng: np.random.Generator
    ) -> tuple[int, int] | None:
        """Claim a place (x, y) for the pixels of an object, (h, w) bool.

        None if no tried place leaves the others visible.
        """
        size = self.owner.shape[0]
        for limit in _CROWDING:
            x, y = random_corner(solid.shape, size, rng)
            if self.crowding(solid.shape, x, y) > limit:
                continue
            losses = self.losses(solid, x, y)
            if self.accepts(losses):
                self.claim(solid, x, y, losses)
                return x, y
        return None


_ANGLE = 20.0


@dataclass(frozen=True)
class Light:
    """How light falls on the objects of a picture.

    It comes from (x, y), a unit vector; ``ramp`` is how much brighter a lit
    side is, ``relief`` how much edges catch, ``shadow`` the share of light
    that a shadow takes, ``offset`` its way from the object as a share of its
    side.
    """

    x: float
    y: float
    ramp: float
    relief: float
    shadow: float
    offset: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> 'Light':
        """Draw light that falls from somewhere above."""
        angle = rng.uniform(np.pi * 0.1, np.pi * 0.9)
        return cls(
            x=float(np.cos(angle)),
            y=-float(np.sin(angle)),
            ramp=rng.uniform(0.05, 0.22),
            relief=rng.uniform(0.0, 0.3),
            shadow=rng.uniform(0.15, 0.5),
            offset=rng.uniform(0.02, 0.08),
        )


def _shadow(
    image: np.ndarray, alpha: np.ndarray, x: int, y: int, light: Light
) -> None:
    """Darken (H, W, 3) float32 in place where an object at (x, y) does."""
    side = max(alpha.shape)
    x -= round(light.x * light.offset * side)
    y -= round(light.y * light.offset * side)
    blur = 2 * max(1, round(light.offset * side * 0.6)) + 1
    edge = blur
    soft = cv2.copyMakeBorder(
        alpha, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=0
    )
    soft = cv2.blur(cv2.blur(soft, (blur, blur)), (blur, blur))
    top, left = max(y - edge, 0), max(x - edge, 0)
    soft = soft[top - y + edge :, left - x + edge :]
    patch = image[top : top + soft.shape[0], left : left + soft.shape[1]]
    soft = soft[: patch.shape[0], : patch.shape[1]].astype(np.float32)
    patch *= cv2.merge([1 - np.float32(light.shadow / 255) * soft] * 3)


def _shading(alpha: np.ndarray, light: Light) -> np.ndarray:
    """Brightness of the pixels of an object, (h, w) float32, about 1."""
    height, width = alpha.shape
    side = max(height, width)
    across = np.linspace(-1, 1, width, dtype=np.float32) * light.x
    down = np.linspace(-1, 1, height, dtype=np.float32) * light.y
    shade = 1 + light.ramp * (down[:, None] + across[None])
    # The edges of a rounded body: the slope of its blurred outline.
    width_of_edge = 2 * max(1, round(side * 0.03)) + 1
    soft = cv2.blur(alpha, (width_of_edge, width_of_edge))
    lean = cv2.Sobel(soft, cv2.CV_32F, 1, 0, scale=-light.x)
    lean += cv2.Sobel(soft, cv2.CV_32F, 0, 1, scale=-light.y)
    scale = light.relief * width_of_edge / (8 * 255)
    return shade + np.float32(scale) * lean


def _paint(
    image: np.ndarray,
    alpha: np.ndarray,
    colour: np.ndarray,
    x: int,
    y: int,
    light: Light,
) -> None:
    """Paint an object and its shadow into (H, W, 3) float32 in place."""
    _shadow(image, alpha, x, y, light)
    height, width = alpha.shape
    patch = image[y : y + height, x : x + width]
    weight = alpha.astype(np.float32) * np.float32(1 / 255)
    shade = _shading(alpha, light)
    # Black has highlights as well.
    lit = [shade * (value + 40) - 40 for value in colour]
    patch += cv2.merge([weight] * 3) * (cv2.merge(lit) - patch)


def _fit(alpha: np.ndarray, size: int) -> np.ndarray:
    """Shrink a mask that is larger than the picture."""
    longest = max(alpha.shape)
    if longest <= size:
        return alpha
    sides = [max(1, int(side * size / longest)) for side in alpha.shape[::-1]]
    return cv2.resize(alpha, sides, interpolation=cv2.INTER_AREA)


def _mask(
    atlas: GlyphAtlas, index: int, side: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw a drawing of a category and its rotation."""
    angle = rng.uniform(-_ANGLE, _ANGLE)
    return atlas.mask(index, side, angle, atlas.pick(index, rng))


def render_single(
    atlas: GlyphAtlas,
    index: int,
    colour: str,
    size: int,
    rng: np.random.Generator,
) -> Picture:
    """Draw one object that fills 45 to 95 % of the side."""
    image = draw_background(size, contrasting_background([colour], rng), rng)
    side = rng.uniform(0.45, 0.95) * size
    alpha = _fit(_mask(atlas, index, side, rng), size)
    x, y = random_corner(alpha.shape, size, rng)
    shade = jittered_colour(colour, rng)
    _paint(image, alpha, shade, x, y, Light.draw(rng))
    mask = np.zeros((size, size), bool)
    mask[y : y + alpha.shape[0], x : x + alpha.shape[1]] = alpha > 127
    placed = Placed(index, colour, int(mask.sum()), mask)
    return Picture(finish(image, rng), [placed])


def render_scene(
    atlas: GlyphAtlas,
    indices: Sequence[int],
    colours: Sequence[str],
    size: int,
    sides: tuple[float, float],
    rng: np.random.Generator,
) -> Picture:
    """Draw several objects, back to front, that may overlap.

    An object that finds no place where it leaves the others visible is left
    out of the picture. ``sides`` is the range of the longest side in pixels.
    """
    ground = contrasting_background(colours, rng)
    image = draw_background(size, ground, rng)
    light = Light.draw(rng)
    canvas = Canvas(size)
    painted: list[tuple[int, str]] = []
    for index, colour in zip(indices, colours, strict=True):
        side = rng.uniform(*sides)
        alpha = _fit(_mask(atlas, index, side, rng), size)
        corner = canvas.place(alpha > 127, rng)
        shade = jittered_colour(colour, rng)
        if corner is not None:
            _paint(image, alpha, shade, *corner, light)
            painted.append((index, colour))
    objects = [
        Placed(index, colour, canvas.totals[i], canvas.owner == i)
        for i, (index, colour) in enumerate(painted)
    ]
    return Picture(finish(image, rng), objects)
