# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The embedded data set ``symbols``: things drawn with the icons of fonts.

Nothing here is imported by ``dito`` itself; the drawing needs Pillow and the
fonts' packages, which training on a finished set does not.
"""

from .build import build_symbols
from .config import SymbolsConfig
from .glyphs import Glyph, load_glyphs

__all__ = ['Glyph', 'SymbolsConfig', 'build_symbols', 'load_glyphs']
