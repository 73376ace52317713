# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Mask targets as the release makes them."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align


def crop_box_masks(
    masks: Tensor, boxes: Tensor, rois: Tensor, size: int = 28
) -> Tensor:
    """Resample masks that are stored as crops of their boxes.

    The release keeps a ground-truth mask as M x M cells of its box (112) and
    takes one bilinear sample a cell of the RoI, without half-pixel shift;
    outside of the box it is 0, and between cells it is soft. MMDetection
    crops the mask of the whole image and rounds to 0 or 1.

    Args:
        masks (Tensor): Masks within their boxes, shape (N, M, M).
        boxes (Tensor): These boxes (x1, y1, x2, y2), shape (N, 4).
        rois (Tensor): RoI of each mask, in the same pixels, shape (N, 4).
        size (int): Cells per side of the targets. Defaults to 28.

    Returns:
        Tensor: float32 in [0, 1], shape (N, size, size).
    """
    cells = masks.new_tensor(masks.shape[1:][::-1]).float()
    sides = (boxes[:, 2:] - boxes[:, :2] + 1e-8) / cells
    corners = boxes[:, :2]
    # Cells of the mask; 2 cells of zeros around stand for all outside.
    places = (
        torch.cat(
            [(rois[:, :2] - corners) / sides, (rois[:, 2:] - corners) / sides],
            1,
        )
        + 2
    )
    index = torch.arange(len(rois), device=rois.device)[:, None].to(places)
    padded = F.pad(masks.float(), (2, 2, 2, 2))[:, None]
    # aligned=True takes off half a cell.
    return roi_align(
        padded,
        torch.cat([index, places + 0.5], 1),
        (size, size),
        sampling_ratio=1,
        aligned=True,
    )[:, 0]
