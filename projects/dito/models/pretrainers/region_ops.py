# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tensor functions of region-centric pretraining (paper 3.2)."""

from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.contrastive_ops import normalize


def to_rois(boxes: Tensor) -> Tensor:
    """Put the image number before each box.

    Args:
        boxes (Tensor): (B, n, 4).

    Returns:
        Tensor: RoIs (image number, x1, y1, x2, y2), (B * n, 5).
    """
    batch, count, _ = boxes.shape
    number = torch.arange(batch, dtype=boxes.dtype, device=boxes.device)
    number = number[:, None, None].expand(batch, count, 1)
    return torch.cat([number, boxes], dim=-1).flatten(0, 1)


def values_at_centers(maps: Tensor, boxes: Tensor,
                      spatial_scale: float) -> Tensor:
    """Read a map at the cells that hold the centres of boxes.

    Args:
        maps (Tensor): (B, 1, h, w).
        boxes (Tensor): Boxes in pixels (B, n, 4).
        spatial_scale (float): Cells a pixel, 1 / stride.

    Returns:
        Tensor: (B, n); boxes with centres in one cell read the same value.
    """
    height, width = maps.shape[-2:]
    x = ((boxes[..., 0] + boxes[..., 2]) / 2 * spatial_scale).floor().long()
    y = ((boxes[..., 1] + boxes[..., 3]) / 2 * spatial_scale).floor().long()
    cell = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return maps.flatten(1).gather(1, cell)


def objectness_targets(regions: Tensor, text: Tensor) -> Tensor:
    """Cosine of regions with their image's text, negatives set to zero.

    Args:
        regions (Tensor): Region embeddings (B, n, D).
        text (Tensor): Text embeddings (B, D).

    Returns:
        Tensor: (B, n) within [0, 1], float32, without gradient.
    """
    regions, text = normalize(regions.detach()), normalize(text.detach())
    return torch.einsum('bnd,bd->bn', regions, text).clamp(min=0, max=1)


def objectness_loss(maps: Tensor, boxes: Tensor, targets: Tensor,
                    spatial_scale: float, offset: float = 0.0) -> Tensor:
    """L1 between objectness at the centres of boxes and their targets.

    Other places of the map have no part in it. Boxes whose centres fall into
    one cell contribute each, so that the cell learns their median.

    Args:
        maps (Tensor): Objectness logits (B, 1, h, w).
        boxes (Tensor): Boxes in pixels (B, n, 4).
        targets (Tensor): (B, n) in [0, 1].
        spatial_scale (float): Cells a pixel, 1 / stride.
        offset (float): Added to the logits that are read.

    Returns:
        Tensor: Scalar, mean over all boxes.
    """
    logits = values_at_centers(maps, boxes, spatial_scale)
    scores = (logits + offset).sigmoid()
    return F.l1_loss(scores, targets.to(scores))


@torch.no_grad()
def winner_sizes(regions: Tensor, boxes: Tensor, image_size: Tuple[int, int],
                 edges: Tuple[float, ...]) -> Tensor:
    """Share of the elements of a maximum that boxes of each size give.

    Args:
        regions (Tensor): Region embeddings (B, n, D); the maximum over n is
            the image embedding.
        boxes (Tensor): Boxes in pixels (B, n, 4).
        image_size (tuple[int, int]): Height and width in pixels.
        edges (tuple[float, ...]): Limits between sizes, ascending. The size
            of a box is the square root of its share of the image's area.

    Returns:
        Tensor: float32 (len(edges) + 1,), sums to 1, smallest size first.
    """
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    size = (width * height / (image_size[0] * image_size[1])).sqrt()
    group = torch.bucketize(size, size.new_tensor(edges))
    won = group.gather(1, regions.argmax(dim=1))
    return torch.stack([
        (won == number).float().mean() for number in range(len(edges) + 1)])
