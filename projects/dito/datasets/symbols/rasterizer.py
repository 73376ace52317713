# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Glyph masks: drawn once from the font, then scaled and rotated."""

import os.path as osp
from typing import Dict, List, Sequence, Tuple

import cv2
import numpy as np

from .glyphs import Glyph

_LARGEST = 256
_SMALLEST = 16
# Outlines of a hair's breadth vanish at 24 pixels; a little weight keeps them.
_EMBOLDEN = 3


def font_path() -> str:
    """Return the path of DejaVu Sans inside matplotlib.

    Raises:
        FileNotFoundError: If matplotlib comes without its fonts.
    """
    import matplotlib

    path = osp.join(
        matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'
    )
    if not osp.isfile(path):
        raise FileNotFoundError(
            f'DejaVu Sans is not at {path}; install matplotlib from its '
            'wheel, which contains the font.'
        )
    return path


def _draw(font: object, codepoint: int) -> np.ndarray:
    """Draw one glyph; mask (h, w) uint8, longest side ``_LARGEST``."""
    from PIL import Image, ImageDraw

    text = chr(codepoint)
    left, top, right, bottom = font.getbbox(text, stroke_width=_EMBOLDEN)
    image = Image.new('L', (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(image).text(
        (4 - left, 4 - top),
        text,
        font=font,
        fill=255,
        stroke_width=_EMBOLDEN,
    )
    mask = np.asarray(image)
    rows = np.flatnonzero(mask.max(axis=1) > 127)
    cols = np.flatnonzero(mask.max(axis=0) > 127)
    if not rows.size:
        raise ValueError(
            f'DejaVu Sans draws nothing for U+{codepoint:04X}; take the '
            'code point out of the table.'
        )
    mask = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    scale = _LARGEST / max(mask.shape)
    size = [max(1, round(side * scale)) for side in mask.shape[::-1]]
    return cv2.resize(mask, size, interpolation=cv2.INTER_AREA)


def _pyramid(mask: np.ndarray) -> Dict[int, np.ndarray]:
    """Halve a mask repeatedly: longest side -> mask (h, w) uint8."""
    levels = {_LARGEST: mask}
    side = _LARGEST
    while side > _SMALLEST:
        side //= 2
        size = [max(1, round(s * side / _LARGEST)) for s in mask.shape[::-1]]
        levels[side] = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    return levels


class GlyphAtlas:
    """Masks of all glyphs at several sizes.

    The font is rasterised once; a picture then costs one small affine warp
    an object.

    Args:
        glyphs (Sequence[Glyph]): The categories, ids 1, 2, ...
    """

    def __init__(self, glyphs: Sequence[Glyph]) -> None:
        from PIL import ImageFont

        # The basic layout engine is in every Pillow; raqm is not.
        font = ImageFont.truetype(
            font_path(), _LARGEST, layout_engine=ImageFont.Layout.BASIC
        )
        self.glyphs: Tuple[Glyph, ...] = tuple(glyphs)
        self._levels: List[Dict[int, np.ndarray]] = [
            _pyramid(_draw(font, glyph.codepoint)) for glyph in self.glyphs
        ]

    def __len__(self) -> int:
        return len(self.glyphs)

    def mask(self, index: int, side: float, angle: float = 0.0) -> np.ndarray:
        """Return one glyph scaled and rotated.

        Args:
            index (int): Position in ``glyphs`` (category id minus one).
            side (float): Longest side before the rotation, in pixels.
            angle (float): Anticlockwise rotation in degrees.

        Returns:
            np.ndarray: Coverage of the pixels, shape (h, w), uint8, the box
            around the rotated glyph (a margin of about one pixel).
        """
        wanted = min(max(side, _SMALLEST), _LARGEST)
        level = _SMALLEST
        while level < wanted:
            level *= 2
        source = self._levels[index][level]
        height, width = source.shape
        scale = side / level
        radian = np.deg2rad(angle)
        cos, sin = np.cos(radian) * scale, np.sin(radian) * scale
        spans = np.abs([[cos, sin], [sin, cos]]) @ (width, height)
        # The small number keeps a right angle from adding a column.
        out_w, out_h = (np.ceil(spans - 1e-6).astype(int) + 2).tolist()
        matrix = np.array([[cos, sin, 0.0], [-sin, cos, 0.0]])
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        matrix[:, 2] = (
            np.array([(out_w - 1) / 2, (out_h - 1) / 2])
            - matrix[:, :2] @ centre
        )
        return cv2.warpAffine(
            source, matrix, (out_w, out_h), flags=cv2.INTER_LINEAR
        )
