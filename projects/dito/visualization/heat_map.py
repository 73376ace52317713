# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures under heat maps."""

from typing import Optional, Tuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .colors import heat_colors
from .detections import enlarge

_HEAT_OPACITY = 0.65


def stretch(values: np.ndarray) -> np.ndarray:
    """Bring a map linearly to [0, 1], its least to 0, its greatest to 1.

    Args:
        values (np.ndarray): Any shape, finite.

    Returns:
        np.ndarray: float32; zeros where all values are one.
    """
    values = np.asarray(values, np.float32)
    low, high = values.min(), values.max()
    if high <= low:
        return np.zeros_like(values)
    return (values - low) / (high - low)


def draw_heat_map(image: np.ndarray,
                  values: np.ndarray,
                  scale: int = 1,
                  box: Optional[Tuple[float, float, float,
                                      float]] = None) -> np.ndarray:
    """Lay a map over a picture without its colours.

    The colours run from the least to the greatest value of this map, see
    :func:`stretch`.

    Args:
        image (np.ndarray): RGB, uint8, (H, W, 3).
        values (np.ndarray): Map (h, w) that covers the picture.
        scale (int): Enlargement. Defaults to 1.
        box (tuple, optional): x1, y1, x2, y2 of an outline in pixels.

    Returns:
        np.ndarray: RGB, uint8, (H * scale, W * scale, 3).
    """
    picture = enlarge(image, scale)
    height, width = picture.shape[:2]
    heat = cv2.resize(
        stretch(values), (width, height), interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    mixed = ((1 - _HEAT_OPACITY) * grey.astype(np.float32) +
             _HEAT_OPACITY * heat_colors(heat))
    mixed = mixed.round().astype(np.uint8)
    return mixed if box is None else outline(mixed, box, scale)


def outline(image: np.ndarray, box: Tuple[float, float, float, float],
            scale: int = 1) -> np.ndarray:
    """Draw a thin white box, in pixels of the picture before enlargement."""
    picture = Image.fromarray(image)
    corners = [scale * v for v in box]
    draw = ImageDraw.Draw(picture)
    draw.rectangle([c + d for c, d in zip(corners, (-1, -1, 1, 1),
                                          strict=True)], outline='black')
    draw.rectangle(corners, outline='white')
    return np.asarray(picture)
