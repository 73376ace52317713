# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pure functions of text-similarity maps (paper 4.3, fig. 3)."""

from typing import Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_maps(features: Tensor, text: Tensor) -> Tensor:
    """Cosine of every place of a map with every text.

    Args:
        features (Tensor): Shape (D, h, w), of any scale.
        text (Tensor): Shape (T, D), of any scale.

    Returns:
        Tensor: Cosines, float32, shape (T, h, w).
    """
    features = F.normalize(features.float(), dim=0)
    return torch.einsum('dhw,td->thw', features,
                        F.normalize(text.float(), dim=1))


def sliding_boxes(grid: Tuple[int, int],
                  stride: float,
                  window: int,
                  limit: Tuple[int, int]) -> Tensor:
    """Boxes about the centres of all cells of a map.

    Args:
        grid (tuple[int, int]): Cells h and w of the map.
        stride (float): Pixels a cell.
        window (int): Side of a box, in cells.
        limit (tuple[int, int]): Height and width of the picture in pixels,
            to which boxes are clipped as proposals are.

    Returns:
        Tensor: Boxes (x1, y1, x2, y2) in pixels, row by row, (h * w, 4).
    """
    y, x = (stride * (torch.arange(n) + 0.5) for n in grid)
    y, x = (v.flatten() for v in torch.meshgrid(y, x, indexing='ij'))
    half = window * stride / 2
    height, width = limit
    return torch.stack([
        (x - half).clamp(0, width), (y - half).clamp(0, height),
        (x + half).clamp(0, width), (y + half).clamp(0, height)
    ], dim=1)


def peak_in_box(similarity: np.ndarray,
                box: Tuple[float, float, float, float],
                size: Tuple[int, int]) -> bool:
    """Whether a map is highest inside a box (the pointing game).

    Args:
        similarity (np.ndarray): Shape (h, w), covering the whole picture.
        box (tuple): x1, y1, x2, y2 in pixels of the picture.
        size (tuple[int, int]): Height and width of the picture in pixels.

    Returns:
        bool: True if the centre of the highest cell lies in the box; of
        cells equally high the first in reading order counts.
    """
    height, width = similarity.shape
    cell = int(similarity.argmax())
    y = (cell // width + 0.5) / height * size[0]
    x = (cell % width + 0.5) / width * size[1]
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]
