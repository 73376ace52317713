# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Drawing of objects, for reports, figures and ``dito detect``."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .labels import LabelPlaces, Rect, label_font
from .shown_object import LEGEND, MISSED, ShownObject

# Light: a mask is told by its edge, and the object keeps its colours.
_MASK_OPACITY = 0.15
_INK = (30, 35, 40)


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge a picture (H, W, 3) by a whole number, smoothly."""
    if scale == 1:
        return image.copy()
    return cv2.resize(
        image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def draw_objects(image: np.ndarray,
                 objects: Sequence[ShownObject],
                 scale: int = 1,
                 font_size: int = 0) -> np.ndarray:
    """Draw light masks, thin boxes and labels beside them.

    Labels cover neither each other nor, where there is room, an object; see
    :class:`LabelPlaces`. A line leads from a label to a box farther off.

    Args:
        image (np.ndarray): RGB, uint8, shape (H, W, 3).
        objects (Sequence[ShownObject]): What to draw; the first are drawn
            last, so a better detection lies over a worse one.
        scale (int): Enlargement, for small pictures. Defaults to 1.
        font_size (int): Height of the text in pixels. Defaults to 0, by the
            size of the picture.

    Returns:
        np.ndarray: RGB, uint8, shape (H * scale, W * scale, 3).

    Raises:
        ValueError: If the image is no RGB picture, or a mask has not its
            shape.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError('image must be uint8 of shape (H, W, 3), got '
                         f'{image.dtype} of {image.shape}.')
    canvas = enlarge(image, scale)
    for item in reversed(objects):
        _draw_mask(canvas, item, image.shape[:2], scale)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    boxes = [tuple(scale * v for v in item.box) for item in objects]
    width = max(1, round(min(canvas.shape[:2]) / 400))
    for item, box in reversed(list(zip(objects, boxes, strict=True))):
        if box[2] > box[0] and box[3] > box[1]:
            _draw_box(draw, box, item, width)
    font_size = font_size or max(11, round(min(canvas.shape[:2]) / 36))
    _draw_labels(draw, objects, boxes, font_size)
    return np.asarray(picture)


def _draw_mask(canvas: np.ndarray, item: ShownObject,
               shape: tuple[int, int], scale: int) -> None:
    """Tint an object's pixels a little and draw their edge, in place."""
    crop = item.crop(shape)
    if crop is None or not crop[2].size:
        return
    x, y = scale * crop[0], scale * crop[1]
    size = scale * crop[2].shape[1], scale * crop[2].shape[0]
    mask = cv2.resize(crop[2].astype(np.uint8) * 255, size) > 127
    part = canvas[y:y + size[1], x:x + size[0]]
    inside = part[mask].astype(np.float32)
    part[mask] = (inside + _MASK_OPACITY * (item.color - inside)).round()
    edges, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outlined = np.ascontiguousarray(part)
    part[:] = cv2.drawContours(outlined, edges, -1, item.color, 1)


def _draw_box(draw: ImageDraw.ImageDraw, box: Rect, item: ShownObject,
              width: int) -> None:
    """Outline an object; one that was missed in dashes."""
    if item.verdict != MISSED:
        draw.rectangle(box, outline=item.color, width=width)
        return
    x1, y1, x2, y2 = box
    dash = 5 * width
    for x in np.arange(x1, x2, 2 * dash):
        for y in (y1, y2):
            draw.line((x, y, min(x + dash, x2), y), item.color, width)
    for y in np.arange(y1, y2, 2 * dash):
        for x in (x1, x2):
            draw.line((x, y, x, min(y + dash, y2)), item.color, width)


def _draw_labels(draw: ImageDraw.ImageDraw, objects: Sequence[ShownObject],
                 boxes: Sequence[Rect], font_size: int) -> None:
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
        ends = [min(max(place[i], box[i]), place[i + 2]) for i in (0, 1)]
        near = [min(max(end, box[i]), box[i + 2])
                for i, end in enumerate(ends)]
        if np.hypot(*np.subtract(ends, near)) > font_size / 2:
            draw.line((*ends, *near), item.color, 1)
        draw.rectangle((*place[:2], place[2] - 1, place[3] - 1), item.color)
        draw.text((place[0] + 4, (place[1] + place[3]) / 2), text, 'white',
                  font, 'lm')


def shortened(text: str, width: float, font_size: int) -> str:
    """Cut a text that is wider than so many pixels, and say so by an …"""
    shown, font = text, label_font(font_size)
    while text and font.getlength(shown) > width:
        text = text[:-1]
        shown = f'{text}…'
    return shown


def draw_legend(width: int, font_size: int) -> np.ndarray:
    """What the colours and signs of judged pictures mean.

    Args:
        width (int): Of the strip in pixels.
        font_size (int): Height of the text in pixels.

    Returns:
        np.ndarray: RGB, uint8, (H, width, 3), on white.
    """
    font, row, x, y = label_font(font_size), 2 * font_size, 0.0, 0
    spots = []
    for sign, color, text in LEGEND:
        length = row + font.getlength(text) + font_size
        if x and x + length > width:
            x, y = 0.0, y + row
        spots.append((x, y, sign, color, text))
        x += length
    strip = Image.new('RGB', (width, y + row), 'white')
    draw = ImageDraw.Draw(strip)
    for x, y, sign, color, text in spots:
        middle, side = y + row / 2, 1.3 * font_size
        draw.rectangle((x, middle - side / 2, x + side, middle + side / 2),
                       color)
        draw.text((x + side / 2, middle), sign, 'white', font, 'mm')
        draw.text((x + side + 6, middle), text, _INK, font, 'lm')
    return np.asarray(strip)
