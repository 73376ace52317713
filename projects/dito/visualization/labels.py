# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Text in pictures."""

from functools import lru_cache
from pathlib import Path
from typing import List, Sequence, Tuple

import matplotlib
from PIL import ImageFont

Rect = Tuple[float, float, float, float]


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


def overlap(first: Rect, second: Rect) -> float:
    """Area that two rectangles (x1, y1, x2, y2) share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)


def place_label(box: Rect, size: Tuple[float, float],
                picture: Tuple[int, int], taken: Sequence[Rect]) -> Rect:
    """Find a place for the label of a box.

    Above the box, below it, inside its top or bottom: the first place that
    lies in the picture and meets no other label, else the one that meets
    least.

    Args:
        box (tuple): The box.
        size (tuple[float, float]): Width and height of the label.
        picture (tuple[int, int]): Width and height of the picture.
        taken (Sequence[tuple]): Labels that have their place.

    Returns:
        tuple: Rectangle of the label, inside the picture unless it is wider.
    """
    width, height = size
    left = max(min(box[0], picture[0] - width), 0)
    tops = (box[1] - height, box[3], box[1], box[3] - height)
    places: List[Rect] = []
    for top in tops:
        top = max(min(top, picture[1] - height), 0)
        places.append((left, top, left + width, top + height))
    return min(places, key=lambda p: sum(overlap(p, t) for t in taken))
