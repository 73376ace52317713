# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Drawing of objects, for reports, figures and ``dito detect``."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .objects import LEGEND, MISSED, Box, ShownObject

# Light: a mask is recognised by its edge, and the object keeps its colours.
_MASK_OPACITY = 0.15
INK = (30, 35, 40)
# Labels are placed on a grid of so many pixels.
_CELL = 4
# An object under a label weighs as much as a way of this share of the picture.
_COVER = 0.15


@lru_cache(maxsize=8)
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans of a height in pixels, which comes with matplotlib."""
    path = Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    return ImageFont.truetype(str(path), size)


def shortened(text: str, width: float, font_size: int) -> str:
    """Cut a text that is wider than so many pixels, and say so by an …"""
    shown, font = text, label_font(font_size)
    while text and font.getlength(shown) > width:
        text = text[:-1]
        shown = f'{text}…'
    return shown


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge a picture (H, W, 3) by a whole number, smoothly."""
    if scale == 1:
        return image.copy()
    size = scale * image.shape[1], scale * image.shape[0]
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)


def draw_objects(
    image: np.ndarray,
    objects: Sequence[ShownObject],
    scale: int = 1,
    font_size: int = 0,
) -> np.ndarray:
    """Draw light masks, thin boxes and labels beside them, on RGB (H, W, 3).

    Labels cover neither each other nor, where there is room, an object; see
    :class:`LabelPlaces`. A line leads from a label to a box farther off. The
    first objects are drawn last, so a better detection lies over a worse one;
    ``scale`` enlarges small pictures. ValueError if the image is no RGB
    picture, or a mask has not its shape.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            'image must be uint8 of shape (H, W, 3), got '
            f'{image.dtype} of {image.shape}.'
        )
    canvas = enlarge(image, scale)
    for item in reversed(objects):
        _draw_mask(canvas, item, image.shape[:2], scale)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    boxes = [tuple(scale * v for v in item.box) for item in objects]
    side = min(canvas.shape[:2])
    for item, box in reversed(list(zip(objects, boxes, strict=True))):
        if box[2] > box[0] and box[3] > box[1]:
            _draw_box(draw, box, item, max(1, round(side / 400)))
    font_size = font_size or max(11, round(side / 36))
    _draw_labels(draw, objects, boxes, font_size)
    return np.asarray(picture)


def _draw_mask(
    canvas: np.ndarray, item: ShownObject, shape: tuple[int, int], scale: int
) -> None:
    """Tint an object's pixels a little and draw their edge, in place."""
    crop = item.crop(shape)
    if crop is None or not crop[2].size:
        return
    x, y = scale * crop[0], scale * crop[1]
    width, height = scale * crop[2].shape[1], scale * crop[2].shape[0]
    mask = cv2.resize(crop[2].astype(np.uint8) * 255, (width, height)) > 127
    part = canvas[y : y + height, x : x + width]
    inside = part[mask].astype(np.float32)
    part[mask] = (inside + _MASK_OPACITY * (item.color - inside)).round()
    edges, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    outlined = np.ascontiguousarray(part)
    part[:] = cv2.drawContours(outlined, edges, -1, item.color, 1)


def _draw_box(
    draw: ImageDraw.ImageDraw, box: Box, item: ShownObject, width: int
) -> None:
    """Outline an object; one that was missed in dashes."""
    if item.verdict != MISSED:
        draw.rectangle(box, outline=item.color, width=width)
        return
    (x1, y1, x2, y2), dash = box, 5 * width
    for x in np.arange(x1, x2, 2 * dash):
        for y in (y1, y2):
            draw.line((x, y, min(x + dash, x2), y), item.color, width)
    for y in np.arange(y1, y2, 2 * dash):
        for x in (x1, x2):
            draw.line((x, y, x, min(y + dash, y2)), item.color, width)


def _draw_labels(
    draw: ImageDraw.ImageDraw,
    objects: Sequence[ShownObject],
    boxes: Sequence[Box],
    font_size: int,
) -> None:
    """Write the labels; the first objects choose their places first."""
    font = label_font(font_size)
    places = LabelPlaces(draw.im.size, boxes)
    for item, box in zip(objects, boxes, strict=True):
        text = shortened(item.label, draw.im.size[0] - 12, font_size)
        size = font.getlength(text) + 8, font_size + 5
        place = places.place(box, size)
        if place is None:
            continue
        # From the nearest point of the label to that of the box.
        end = np.clip(place[:2], box[:2], place[2:])
        near = np.clip(end, box[:2], box[2:])
        if np.hypot(*(end - near)) > font_size / 2:
            draw.line((*end, *near), item.color, 1)
        draw.rectangle((*place[:2], place[2] - 1, place[3] - 1), item.color)
        middle = place[0] + 4, (place[1] + place[3]) / 2
        draw.text(middle, text, 'white', font, 'lm')


class LabelPlaces:
    """Places for the labels of a picture's boxes, in pixels.

    A label lies in the picture and on no other label. Among such places it
    takes one near its box, beside all boxes if there is room: covering an
    object costs as much as a long way. Where no place is left, a label is left
    out; the first to ask are served first.
    """

    def __init__(self, size: tuple[int, int], boxes: Sequence[Box]) -> None:
        shape = size[1] // _CELL, size[0] // _CELL
        self._taken = np.zeros(shape, np.uint8)
        self._objects = np.zeros(shape, np.uint8)
        for x1, y1, x2, y2 in boxes:
            rows = slice(max(int(y1 // _CELL), 0), max(-int(-y2 // _CELL), 0))
            columns = slice(
                max(int(x1 // _CELL), 0), max(-int(-x2 // _CELL), 0)
            )
            self._objects[rows, columns] = 1

    def place(self, box: Box, size: tuple[float, float]) -> Box | None:
        """Take a place near a box for a label of this size, if any."""
        width, height = (-int(-v // _CELL) for v in size)
        rows, columns = self._taken.shape
        if width > columns or height > rows:
            return None
        x1, y1, x2, y2 = (v / _CELL for v in box)
        x = np.arange(columns - width + 1)[None]
        y = np.arange(rows - height + 1)[:, None]
        across = np.maximum(np.maximum(x1 - x - width, x - x2), 0)
        down = np.maximum(np.maximum(y1 - y - height, y - y2), 0)
        # Of equal ways that over the left corner.
        corner = abs(x - x1) + abs(y + height - y1)
        covered = _windows(self._objects, width, height) / (width * height)
        cost = np.hypot(across, down) + 0.05 * corner
        cost += _COVER * np.hypot(rows, columns) * covered
        cost[_windows(self._taken, width, height) > 0] = np.inf
        row, column = np.unravel_index(cost.argmin(), cost.shape)
        if np.isinf(cost[row, column]):
            return None
        self._taken[row : row + height, column : column + width] = 1
        corners = column, row, column + width, row + height
        return tuple(float(_CELL * v) for v in corners)


def _windows(cells: np.ndarray, width: int, height: int) -> np.ndarray:
    """Sums over all windows of a size inside a map of cells."""
    total = cv2.integral(cells)
    rows = total[height:] - total[:-height]
    return rows[:, width:] - rows[:, :-width]


def draw_legend(width: int, font_size: int) -> np.ndarray:
    """What colours and signs of judged pictures mean: RGB, (H, width, 3)."""
    font, row, x, y = label_font(font_size), 2 * font_size, 0.0, 0
    spots = []
    for sign, color, text in LEGEND:
        length = row + font.getlength(text) + font_size
        if x and x + length > width:
            x, y = 0.0, y + row
        spots.append((x, y + row / 2, sign, color, text))
        x += length
    strip = Image.new('RGB', (width, y + row), 'white')
    draw = ImageDraw.Draw(strip)
    side = 1.3 * font_size
    for x, y, sign, color, text in spots:
        draw.rectangle((x, y - side / 2, x + side, y + side / 2), color)
        draw.text((x + side / 2, y), sign, 'white', font, 'mm')
        draw.text((x + side + 6, y), text, INK, font, 'lm')
    return np.asarray(strip)


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
    """Lay a map (h, w) over an RGB picture without its colours.

    The colours run from dark at the least value of this map over red to pale
    yellow at its greatest, see :func:`stretch`; ``box`` is an outline in
    pixels.
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
