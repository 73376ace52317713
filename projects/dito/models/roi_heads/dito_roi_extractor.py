# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""RoI features with float32 coordinates."""

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor, nn
from torchvision.ops import roi_align

from ..targets import nonzero_all


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

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = 1,
    ) -> None:
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
            aligned=True,
        )


@MODELS.register_module()
class DITORoIExtractor(SingleRoIExtractor):
    """Single-level RoI extractor whose coordinates stay float32.

    MMDetection casts RoIs to the type of the features; in bfloat16 a box
    then moves by more than a pixel at 1024. Here features are cast to
    float32 instead. A box of ``s`` pixels a side goes to level
    ``floor(log2(s / finest_scale))``, so with ``finest_scale=56`` and strides
    from 4 upwards, 224 pixels go to stride 16 (release, FPN); boxes without
    area, also inverted ones, go to the finest level. The number of RoIs of all
    levels is asked of the device at once. Besides mmcv's layers
    ``roi_layer`` may be a registered one, such as :class:`DITOCellAlign`.
    """

    def build_roi_layers(
        self, layer_cfg: ConfigType, featmap_strides: list[int]
    ) -> nn.ModuleList:
        """Build one RoI layer a level, mmcv's or a registered one."""
        layer = (
            MODELS.get(layer_cfg['type'])
            if isinstance(layer_cfg['type'], str)
            else None
        )
        if layer is None:
            return super().build_roi_layers(layer_cfg, featmap_strides)
        return super().build_roi_layers(
            dict(layer_cfg, type=layer), featmap_strides
        )

    def map_roi_levels(self, rois: Tensor, num_levels: int) -> Tensor:
        """Level of each RoI.

        Args:
            rois (Tensor): RoIs (batch index, x1, y1, x2, y2), shape (N, 5).
            num_levels (int): Number of levels.

        Returns:
            Tensor: 0-based levels, int64, shape (N, ).
        """
        sides = (rois[:, 3:] - rois[:, 1:3]).clamp(min=0)
        rois = torch.cat([torch.zeros_like(rois[:, :3]), sides], dim=1)
        return super().map_roi_levels(rois, num_levels)

    def forward(
        self,
        feats: tuple[Tensor, ...],
        rois: Tensor,
        roi_scale_factor: float | None = None,
    ) -> Tensor:
        """Extract RoI features.

        Args:
            feats (Tuple[Tensor, ...]): Maps of all levels, (B, C, h, w)
                each, of any floating type.
            rois (Tensor): RoIs (batch index, x1, y1, x2, y2) in pixels of
                the network input, shape (N, 5).
            roi_scale_factor (float, optional): Scales RoIs about their
                centres after their level was chosen. Ignored for one level.

        Returns:
            Tensor: Features, float32, shape (N, C, size, size).
        """
        with torch.autocast(rois.device.type, enabled=False):
            feats = tuple(feat.float() for feat in feats)
            if len(rois) == 0:
                # No RoI in the batch: keep the maps in the graph, so that
                # every parameter still gets a gradient.
                size = self.roi_layers[0].output_size
                empty = feats[0].new_zeros(0, self.out_channels, *size)
                return empty + sum(feat.sum() for feat in feats) * 0
            if len(feats) == 1:
                return self.roi_layers[0](feats[0], rois.float())
            return self._by_level(feats, rois.float(), roi_scale_factor)

    def _by_level(
        self,
        feats: tuple[Tensor, ...],
        rois: Tensor,
        roi_scale_factor: float | None,
    ) -> Tensor:
        """Crop each RoI out of the map of its level."""
        levels = self.map_roi_levels(rois, len(feats))
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        inds = nonzero_all([levels == i for i in range(len(feats))])
        crops, unused = [], []
        for feat, layer, found in zip(
            feats, self.roi_layers, inds, strict=True
        ):
            if len(found):
                crops.append(layer(feat, rois[found]))
            else:
                unused.append(feat)
        order = torch.cat(inds)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        crop = torch.cat(crops).index_select(0, place)
        # So that every map has a gradient, on all processes alike.
        return crop + sum(feat.sum() for feat in unused) * 0
