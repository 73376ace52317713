# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Drawing of objects: base classes in one colour, novel ones in another."""

from typing import List, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .colors import class_color
from .labels import Rect, label_font, place_label
from .shown_object import ShownObject

_MASK_OPACITY = 0.4


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge a picture (H, W, 3) by a whole number, smoothly."""
    if scale == 1:
        return image.copy()
    return cv2.resize(
        image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def draw_objects(image: np.ndarray,
                 objects: Sequence[ShownObject],
                 scale: int = 1,
                 font_size: int = 13) -> np.ndarray:
    """Draw boxes, labels and half-transparent masks.

    Args:
        image (np.ndarray): RGB, uint8, shape (H, W, 3).
        objects (Sequence[ShownObject]): What to draw; the first are drawn
            last, so a better detection lies over a worse one.
        scale (int): Enlargement, for small pictures. Defaults to 1.
        font_size (int): Height of the text in pixels. Defaults to 13.

    Returns:
        np.ndarray: RGB, uint8, shape (H * scale, W * scale, 3).

    Raises:
        ValueError: If the image is no RGB picture, or a mask has not its
            shape.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError('image must be uint8 of shape (H, W, 3), got '
                         f'{image.dtype} of {image.shape}.')
    canvas = enlarge(_with_masks(image, objects), scale)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    boxes = [tuple(scale * v for v in item.box) for item in objects]
    width = max(2, round(font_size / 6))
    for item, box in reversed(list(zip(objects, boxes, strict=True))):
        if box[2] > box[0] and box[3] > box[1]:
            draw.rectangle(box, outline=class_color(item.novel), width=width)
    _draw_labels(draw, objects, boxes, font_size)
    return np.asarray(picture)


def _with_masks(image: np.ndarray,
                objects: Sequence[ShownObject]) -> np.ndarray:
    mixed = image.astype(np.float32)
    for item in reversed(objects):
        if item.mask is None:
            continue
        if item.mask.shape != image.shape[:2]:
            raise ValueError(f'The mask of {item.name!r} has shape '
                             f'{item.mask.shape}, the image '
                             f'{image.shape[:2]}.')
        color = np.asarray(class_color(item.novel), np.float32)
        inside = mixed[item.mask]
        mixed[item.mask] = inside + _MASK_OPACITY * (color - inside)
    return mixed.round().astype(np.uint8)


def _draw_labels(draw: ImageDraw.ImageDraw, objects: Sequence[ShownObject],
                 boxes: Sequence[Rect], font_size: int) -> None:
    """Write the labels; the first objects choose their places first."""
    font = label_font(font_size)
    taken: List[Rect] = []
    height = font_size + 4
    for item, box in zip(objects, boxes, strict=True):
        size = (font.getlength(item.label) + 6, height)
        place = place_label(box, size, draw.im.size, taken)
        taken.append(place)
        draw.rectangle(place, fill=class_color(item.novel))
        draw.text((place[0] + 3, place[1] + height / 2),
                  item.label,
                  fill='white',
                  font=font,
                  anchor='lm')
