# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures under heat maps."""

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .drawing import enlarge
from .objects import Box

_HEAT_OPACITY = 0.65


def stretch(values: np.ndarray) -> np.ndarray:
    """Bring a finite map linearly to [0, 1], float32; a flat one to zeros."""
    values = np.asarray(values, np.float32)
    span = values.max() - values.min()
    return (values - values.min()) / (span if span > 0 else 1)


def draw_heat_map(
    image: np.ndarray,
    values: np.ndarray,
    scale: int = 1,
    box: Box | None = None,
) -> np.ndarray:
    """Lay a map over a picture without its colours.

    The colours run from dark at the least value of this map over red to pale
    yellow at its greatest, see :func:`stretch`.

    Args:
        image (np.ndarray): RGB, uint8, (H, W, 3).
        values (np.ndarray): Map (h, w) that covers the picture.
        scale (int): Enlargement. Defaults to 1.
        box (tuple, optional): x1, y1, x2, y2 of an outline in pixels.

    Returns:
        np.ndarray: RGB, uint8, (H * scale, W * scale, 3).
    """
    picture = enlarge(image, scale)
    # Bilinear, as cv2.resize is unless told otherwise.
    heat = cv2.resize(stretch(values), picture.shape[1::-1])
    levels = (255 * heat).round().astype(np.uint8)
    colors = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    mixed = (1 - _HEAT_OPACITY) * grey.astype(np.float32)
    mixed = (mixed + _HEAT_OPACITY * colors).round().astype(np.uint8)
    return mixed if box is None else outline(mixed, box, scale)


def outline(image: np.ndarray, box: Box, scale: int = 1) -> np.ndarray:
    """Draw a thin white box, in pixels of the picture before enlargement."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    x1, y1, x2, y2 = (scale * v for v in box)
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline='black')
    draw.rectangle((x1, y1, x2, y2), outline='white')
    return np.asarray(picture)
