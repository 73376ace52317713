# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Eight named colours, their jitter, and backgrounds that contrast."""

from collections.abc import Sequence

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
    """Draw a shade of a named colour.

    Args:
        name (str): One of ``COLOUR_NAMES``.
        rng (np.random.Generator): Source of randomness.

    Returns:
        np.ndarray: RGB, shape (3,), float32 in [0, 255].
    """
    colour = np.array(COLOURS[name], np.float32)
    colour = colour * rng.uniform(0.86, 1.08) + rng.normal(0, 6, 3)
    return np.clip(colour, 0, 255).astype(np.float32)


def contrasting_background(
    names: Sequence[str], rng: np.random.Generator, tries: int = 16
) -> np.ndarray:
    """Draw a muted colour far from every named colour.

    Args:
        names (Sequence[str]): Colours that lie on the background.
        rng (np.random.Generator): Source of randomness.
        tries (int): Candidates; the farthest is taken when none is far
            enough. Defaults to 16.

    Returns:
        np.ndarray: RGB, shape (3,), float32 in [0, 255].
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
