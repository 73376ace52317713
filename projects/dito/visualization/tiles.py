# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Titled pictures in rows."""

from typing import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .detections import shortened
from .labels import label_font

# Pictures are drawn at twice the size that they are looked at.
TILE = 576
FONT = 26
_GAP = 16
_LINE = 44


def fit_tile(image: np.ndarray) -> np.ndarray:
    """Fit a picture (H, W, 3) into a white square of ``TILE`` pixels."""
    height, width = image.shape[:2]
    factor = TILE / max(height, width)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    tile = np.full((TILE, TILE, 3), 255, np.uint8)
    resized = cv2.resize(
        image, size,
        interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    tile[:size[1], :size[0]] = resized
    return tile


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """A tile with a line of text above it, cut off where it is too long."""
    head = Image.new('RGB', (TILE, _LINE), 'white')
    ImageDraw.Draw(head).text((0, _LINE / 2),
                              shortened(title, TILE, FONT),
                              fill=(30, 35, 40),
                              font=label_font(FONT),
                              anchor='lm')
    return np.concatenate([np.asarray(head), fit_tile(image)])


def arrange(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Put tiles of one size into rows on white.

    Args:
        tiles (Sequence[np.ndarray]): RGB, uint8, (H, W, 3) each.
        columns (int): Tiles a row.

    Returns:
        np.ndarray: RGB, uint8.
    """
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    canvas = np.full(
        (rows * height + (rows - 1) * _GAP,
         columns * width + (columns - 1) * _GAP, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        y, x = row * (height + _GAP), column * (width + _GAP)
        canvas[y:y + height, x:x + width] = tile
    return canvas
