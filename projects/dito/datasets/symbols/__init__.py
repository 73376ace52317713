# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The embedded data set ``symbols``: pictographs drawn from a font.

Nothing here is imported by ``dito`` itself; the drawing needs Pillow and
matplotlib's font files, which training on a finished set does not.
"""

from .build import build_symbols
from .config import SymbolsConfig
from .glyphs import Glyph, load_glyphs

__all__ = ['Glyph', 'SymbolsConfig', 'build_symbols', 'load_glyphs']
