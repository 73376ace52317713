# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Backgrounds like those of photographs: surfaces, light, things out of focus.

Nothing in them has a sharp outline, so nothing looks like an object.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

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
    """Blotches of several sizes, as of a wall, a lawn or a cloudy sky."""
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
    """Streaks in one direction, as of wood, sand or brushed metal."""
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
