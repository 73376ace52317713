# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Text in pictures."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import ImageFont

Rect = tuple[float, float, float, float]
# Labels are placed on a grid of so many pixels.
_CELL = 4
# An object under a label weighs as much as a way of this share of the picture.
_COVER = 0.15


@lru_cache(maxsize=8)
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """The font of matplotlib's own, which every installation has.

    Args:
        size (int): Height in pixels.

    Returns:
        ImageFont.FreeTypeFont: DejaVu Sans.
    """
    folder = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
    return ImageFont.truetype(str(folder / 'DejaVuSans.ttf'), size)


class LabelPlaces:
    """Places for the labels of a picture's boxes.

    A label lies in the picture and on no other label. Among such places it
    takes one near its box, beside all boxes if there is room: covering an
    object costs as much as a long way. Where there is no place any more a
    label is left out; the first to ask are served first.

    Args:
        size (tuple[int, int]): Width and height of the picture in pixels.
        boxes (Sequence[tuple]): All boxes, x1, y1, x2, y2 in pixels.
    """

    def __init__(self, size: tuple[int, int], boxes: Sequence[Rect]) -> None:
        shape = size[1] // _CELL, size[0] // _CELL
        self._taken = np.zeros(shape, np.uint8)
        self._objects = np.zeros(shape, np.uint8)
        for x1, y1, x2, y2 in boxes:
            rows = slice(max(int(y1 // _CELL), 0), max(-int(-y2 // _CELL), 0))
            columns = slice(max(int(x1 // _CELL), 0),
                            max(-int(-x2 // _CELL), 0))
            self._objects[rows, columns] = 1

    def place(self, box: Rect, size: tuple[float, float]) -> Rect | None:
        """Take a place.

        Args:
            box (tuple): The box that is named.
            size (tuple[float, float]): Width and height of the label.

        Returns:
            tuple | None: Rectangle of at least this size; None where there
            is no room.
        """
        width, height = (-int(-v // _CELL) for v in size)
        rows, columns = self._taken.shape
        if width > columns or height > rows:
            return None
        x1, y1, x2, y2 = (v / _CELL for v in box)
        x = np.arange(columns - width + 1)[None]
        y = np.arange(rows - height + 1)[:, None]
        across = np.maximum(np.maximum(x1 - x - width, x - x2), 0)
        down = np.maximum(np.maximum(y1 - y - height, y - y2), 0)
        cost = np.hypot(across, down)
        # Of equal ways that over the left corner.
        cost = cost + 0.05 * (abs(x - x1) + abs(y + height - y1))
        cost += _COVER * np.hypot(rows, columns) * _windows(
            self._objects, width, height) / (width * height)
        cost[_windows(self._taken, width, height) > 0] = np.inf
        row, column = np.unravel_index(cost.argmin(), cost.shape)
        if np.isinf(cost[row, column]):
            return None
        self._taken[row:row + height, column:column + width] = 1
        return tuple(float(_CELL * v) for v in (
            column, row, column + width, row + height))


def _windows(cells: np.ndarray, width: int, height: int) -> np.ndarray:
    """Sums over all windows of a size inside a map of cells."""
    total = cv2.integral(cells)
    return (total[height:, width:] - total[:-height, width:] -
            total[height:, :-width] + total[:-height, :-width])
