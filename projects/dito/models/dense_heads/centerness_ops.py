# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pure functions of the proposal head: centerness and lrtb boxes.

The proposal head regresses (left, right, top, bottom), the distances from an
anchor's centre to the four sides in units of the anchor's own sides, without
any activation (release). MMDetection's :class:`TBLRBBoxCoder` does the same in
the order (top, bottom, left, right), so only the columns are exchanged.
"""

import torch
from torch import Tensor


def lrtb_to_tblr(lrtb: Tensor) -> Tensor:
    """Reorder (left, right, top, bottom) to (top, bottom, left, right).

    The exchange is its own inverse.

    Args:
        lrtb (Tensor): Distances, shape (..., 4).

    Returns:
        Tensor: The same distances, shape (..., 4).
    """
    return torch.cat([lrtb[..., 2:], lrtb[..., :2]], dim=-1)


def centerness(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Centerness of each anchor's centre in the box matched to it.

    ``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))``, and 0 where the
    centre is not strictly inside the box (release).

    Args:
        anchors (Tensor): Anchors (x1, y1, x2, y2) in pixels, shape (N, 4).
        boxes (Tensor): The box matched to each of them, shape (N, 4).

    Returns:
        Tensor: Values in [0, 1], shape (N, ).
    """
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    near, far = centers - boxes[:, :2], boxes[:, 2:] - centers
    small, large = torch.minimum(near, far), torch.maximum(near, far)
    inside = (small > 0).all(dim=1)
    # Outside the box the ratio has no meaning and may be negative or 0 / 0.
    ratio = torch.where(inside[:, None], small / large, small.new_zeros(()))
    return ratio.prod(dim=1).sqrt()


def distinct(boxes: Tensor, levels: Tensor) -> Tensor:
    """Leave out repeated boxes of a level, and boxes of four zeros.

    This is what the NMS of the release does at its threshold of 1. Anchors
    near a border often give the same clipped box, above all the whole image.
    Boxes without area have an IoU of 0, with themselves too, and stay.

    Args:
        boxes (Tensor): Shape (N, 4); within a level best first.
        levels (Tensor): Level of each, shape (N, ).

    Returns:
        Tensor: Indices of the boxes kept, int64, ascending.
    """
    rows = torch.cat([levels[:, None].to(boxes), boxes], dim=1)
    _, group = rows.unique(dim=0, return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(places, len(rows)).scatter_reduce(
        0, group, places, 'amin')
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
    return places[((first[group] == places) | flat) & boxes.any(dim=1)]
