# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""RoI features of boxes of any size, sampled as the release does."""

from typing import Tuple, Union

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn
from torchvision.ops import roi_align


@MODELS.register_module()
class DITOCellAlign(nn.Module):
    """RoIAlign without half-pixel shift that widens no box.

    Samples lie at image / stride, as with ``RoIAlign(aligned=False)``, which
    however takes a box below one cell of the map for one cell wide. The
    release samples every box as it is. ``aligned=True`` does not widen but
    subtracts half a cell, so boxes are moved half a cell before it.

    Args:
        output_size (int | tuple[int, int]): Cells of the result.
        spatial_scale (float): Cells of the map per pixel, 1 / stride.
        sampling_ratio (int): Samples a side in each cell of the result; 1 in
            the release. Defaults to 1.
    """

    def __init__(self,
                 output_size: Union[int, Tuple[int, int]],
                 spatial_scale: float = 1.0,
                 sampling_ratio: int = 1) -> None:
        super().__init__()
        if isinstance(output_size, int):
            output_size = (output_size, output_size)
        self.output_size = tuple(output_size)
        self.spatial_scale = float(spatial_scale)
        self.sampling_ratio = sampling_ratio

    def forward(self, feats: Tensor, rois: Tensor) -> Tensor:
        """Sample RoIs.

        Args:
            feats (Tensor): Shape (B, C, h, w), float32.
            rois (Tensor): RoIs (batch index, x1, y1, x2, y2) in pixels,
                shape (N, 5), float32. The far corner may lie before the
                near one; the crop is then mirrored, as in the release.

        Returns:
            Tensor: Shape (N, C, *output_size).
        """
        shift = torch.full_like(rois[:1], 0.5 / self.spatial_scale)
        shift[:, 0] = 0
        return roi_align(
            feats,
            rois + shift,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            aligned=True)
