# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Similarity maps of one picture, side by side."""

from typing import List, Sequence

import numpy as np

from .heat_map import draw_heat_map
from .similarity import SimilarityMaps
from .tiles import TILE, arrange, titled


def similarity_strip(image: np.ndarray, texts: Sequence[str],
                     maps: SimilarityMaps) -> np.ndarray:
    """Draw a row for each text: the picture, and its one or two maps.

    Args:
        image (np.ndarray): RGB, uint8, (H, W, 3).
        texts (Sequence[str]): Queries, in the order of the maps.
        maps (SimilarityMaps): Their maps.

    Returns:
        np.ndarray: RGB, uint8.
    """
    kinds = [('backbone', maps.backbone)]
    if maps.regions is not None:
        kinds.append(('box head', maps.regions))
    scale = max(1, -(-TILE // max(image.shape[:2])))
    tiles: List[np.ndarray] = []
    for number, text in enumerate(texts):
        tiles.append(titled(image, text))
        for name, values in kinds:
            low, high = values[number].min(), values[number].max()
            tiles.append(
                titled(draw_heat_map(image, values[number], scale),
                       f'{name}: {100 * low:.0f} to {100 * high:.0f} %'))
    return arrange(tiles, 1 + len(kinds))
