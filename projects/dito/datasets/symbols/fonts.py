# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The fonts that ``symbols`` is drawn from, each out of a Python package.

The icon packages are made for Qt, but their fonts and lists of names are
plain files and classes, which is all that is used here.
"""

import importlib
import os.path as osp
from dataclasses import dataclass

from .glyphs import Drawing


@dataclass(frozen=True)
class Font:
    """Where a font and the names of its icons are.

    Args:
        package (str): What to install.
        module (str): Module with the class below.
        names (str): Class whose attributes are the icons, 'prefix.CHARACTER'
            each, and whose ``__font_file__`` is the font; '' for DejaVu Sans
            in matplotlib, whose icons are code points.
        stroke (int): Pixels, at 256, by which strokes grow: outlines of a
            hair's breadth vanish at 24 pixels.
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
    """Return the path of a font.

    Args:
        key (str): One of ``FONTS``.

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
    """Return the character that shows a drawing.

    Args:
        drawing (Drawing): Font and icon.

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
