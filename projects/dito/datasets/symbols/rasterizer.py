# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Masks of drawings: made once from the fonts, then scaled and rotated."""

import importlib
import os.path as osp
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .glyphs import Drawing, Glyph


@dataclass(frozen=True)
class Font:
    """Where a font and the names of its icons are.

    ``names`` is a class in ``module`` whose attributes are the icons,
    'prefix.CHARACTER' each, and whose ``__font_file__`` is the font; '' for
    DejaVu Sans in matplotlib, whose icons are code points. Strokes grow by
    ``stroke`` pixels, at 256: outlines of a hair's breadth vanish at 24
    pixels.
    """

    package: str
    module: str
    names: str
    stroke: int = 0


#: By the key that the table of glyphs uses.
FONTS = dict(
    dejavu=Font('matplotlib', 'matplotlib', '', stroke=3),
    fa=Font('fonticon-fontawesome6', 'fonticon_fa6', 'FA6S'),
    mdi=Font('fonticon-materialdesignicons7', 'fonticon_mdi7', 'MDI7'),
)


def _load(font: Font) -> object:
    try:
        return importlib.import_module(font.module)
    except ImportError as error:
        raise ImportError(
            f'The data set symbols is drawn with a font of {font.package}, '
            f'which is not installed: pip install {font.package}'
        ) from error


def font_path(key: str) -> str:
    """Path of a font of ``FONTS``.

    Raises:
        ImportError: If the package is not installed.
        FileNotFoundError: If it comes without its font.
    """
    font = FONTS[key]
    module = _load(font)
    if font.names:
        path = getattr(module, font.names).__font_file__
    else:
        folder = osp.join(module.get_data_path(), 'fonts', 'ttf')
        path = osp.join(folder, 'DejaVuSans.ttf')
    if not osp.isfile(path):
        raise FileNotFoundError(
            f'{path} is missing; install {font.package} from its wheel, '
            'which contains the font.'
        )
    return path


def character(drawing: Drawing) -> str:
    """The character that shows a drawing.

    Raises:
        ImportError: If the package of the font is not installed.
        ValueError: If the font has no icon of this name.
    """
    font = FONTS[drawing.font]
    if not font.names:
        return chr(int(drawing.icon, 16))
    icon = getattr(getattr(_load(font), font.names), drawing.icon, None)
    if icon is None:
        raise ValueError(
            f'{font.package} has no icon "{drawing.icon}"; take {drawing} '
            'out of the table or install the version of the constraints.'
        )
    return icon.partition('.')[2]


_LARGEST = 256
_SMALLEST = 16

Levels = dict[int, np.ndarray]


def _draw(font: object, drawing: Drawing) -> np.ndarray:
    """Draw one icon; mask (h, w) uint8, longest side ``_LARGEST``."""
    from PIL import Image, ImageDraw

    text = character(drawing)
    stroke = FONTS[drawing.font].stroke
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    image = Image.new('L', (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(image).text(
        (4 - left, 4 - top), text, font=font, fill=255, stroke_width=stroke
    )
    mask = np.asarray(image)
    rows = np.flatnonzero(mask.max(axis=1) > 127)
    cols = np.flatnonzero(mask.max(axis=0) > 127)
    if not rows.size:
        raise ValueError(
            f'{FONTS[drawing.font].package} draws nothing for {drawing}; '
            'take it out of the table.'
        )
    mask = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    scale = _LARGEST / max(mask.shape)
    size = [max(1, round(side * scale)) for side in mask.shape[::-1]]
    return cv2.resize(mask, size, interpolation=cv2.INTER_AREA)


def _pyramid(mask: np.ndarray) -> Levels:
    """Halve a mask repeatedly: longest side -> mask (h, w) uint8."""
    levels = {_LARGEST: mask}
    side = _LARGEST
    while side > _SMALLEST:
        side //= 2
        size = [max(1, round(s * side / _LARGEST)) for s in mask.shape[::-1]]
        levels[side] = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    return levels


class GlyphAtlas:
    """Masks of all drawings, or of the held-out ones, at several sizes.

    The fonts are rasterised once; a picture then costs one small affine warp
    an object.
    """

    def __init__(
        self, glyphs: Sequence[Glyph], held_out: bool = False
    ) -> None:
        from PIL import ImageFont

        # The basic layout engine is in every Pillow; raqm is not.
        fonts = {
            key: ImageFont.truetype(
                font_path(key), _LARGEST, layout_engine=ImageFont.Layout.BASIC
            )
            for key in FONTS
        }
        self.glyphs: tuple[Glyph, ...] = tuple(glyphs)
        self._levels: list[list[Levels]] = []
        for glyph in self.glyphs:
            drawings = glyph.drawings
            if held_out and glyph.held_out:
                drawings = (glyph.held_out,)
            self._levels.append(
                [_pyramid(_draw(fonts[d.font], d)) for d in drawings]
            )

    def __len__(self) -> int:
        return len(self.glyphs)

    def pick(self, index: int, rng: np.random.Generator) -> int:
        """Draw the number of one of the drawings of a category."""
        return int(rng.integers(len(self._levels[index])))

    def mask(
        self, index: int, side: float, angle: float = 0.0, drawing: int = 0
    ) -> np.ndarray:
        """One drawing scaled and rotated: coverage, (h, w) uint8.

        ``side`` is the longest before the rotation, in pixels; ``angle`` is
        anticlockwise, in degrees; the box has a margin of about one pixel.
        """
        wanted = min(max(side, _SMALLEST), _LARGEST)
        level = _SMALLEST
        while level < wanted:
            level *= 2
        source = self._levels[index][drawing][level]
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
