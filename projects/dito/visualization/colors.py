# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Colours of pictures and curves, all RGB."""

from typing import Tuple

import cv2
import numpy as np

Color = Tuple[int, int, int]

# Blue and orange stay apart for colour-blind eyes, and on light and dark. What
# is wrong or missing differs by its sign and its line too.
BASE_COLOR: Color = (37, 99, 235)
NOVEL_COLOR: Color = (217, 84, 10)
WRONG_COLOR: Color = (190, 24, 130)
MISSED_COLOR: Color = (71, 80, 92)

# Middle tones: legible on a white and on a black page.
CURVE_COLORS = ('#3b82f6', '#ea580c', '#10a37f', '#a855f7', '#dc2680',
                '#8a8f98')


def css_color(color: Color) -> str:
    """Write a colour as ``#rrggbb``."""
    return '#{:02x}{:02x}{:02x}'.format(*color)


def heat_colors(values: np.ndarray) -> np.ndarray:
    """Colour numbers from dark (0) over red to pale yellow (1).

    Args:
        values (np.ndarray): Any shape (H, W), within [0, 1]; what lies
            outside is clipped.

    Returns:
        np.ndarray: RGB, uint8, (H, W, 3).
    """
    levels = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1].copy()
