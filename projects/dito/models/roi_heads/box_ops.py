# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""RoI features in float32, box coder of the release, NMS by class."""

from collections.abc import Sequence

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.utils import ConfigType
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from ..targets import nonzero_all
from ..utils import is_symbolic
from .geometric_ensemble import ChunkedScores


@TASK_UTILS.register_module()
class DITOPlusOneBBoxCoder(DeltaXYWHBBoxCoder):
    """Delta coder with inclusive far corners, for the authors' weights.

    A box covers the pixels from x1 to x2 inclusive, so its side is
    ``x2 - x1 + 1`` and decoded boxes are clipped to ``side - 1``.
    MMDetection's legacy coder has these sides too but leaves decoded corners
    half a pixel off.

    Args:
        target_means (Sequence[float]): Means of the deltas.
        target_stds (Sequence[float]): Deviations of the deltas; the default
            is the release's weights 10, 10, 5, 5.
    """

    def __init__(
        self,
        target_means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        target_stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    ) -> None:
        super().__init__(target_means=target_means, target_stds=target_stds)

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Deltas (N, 4) from boxes (N, 4) to ground truth (N, 4)."""
        return super().encode(_exclusive(bboxes), _exclusive(gt_bboxes))

    def decode(
        self,
        bboxes: Tensor,
        pred_bboxes: Tensor,
        max_shape: Sequence[int] | None = None,
    ) -> Tensor:
        """Boxes of deltas (N, 4), clipped to a height and width."""
        boxes = super().decode(_exclusive(bboxes), pred_bboxes)
        boxes = boxes - boxes.new_tensor([0, 0, 1, 1])
        if max_shape is None:
            return boxes
        limit = boxes.new_tensor([max_shape[1], max_shape[0]] * 2) - 1
        return boxes.clamp(min=0).minimum(limit)


def _exclusive(boxes: Tensor) -> Tensor:
    """Move the far corner past the last covered pixel."""
    return boxes + boxes.new_tensor([0, 0, 1, 1])


def _nms_by_class(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_thr: float
) -> Tensor:
    """NMS within each class: indices kept, best first."""
    shift = (boxes.max() - boxes.min().clamp(max=0) + 1).double()
    apart = boxes.double() + (labels * shift)[:, None]
    return nms(apart, scores.double(), iou_thr)


def topk_class_nms(
    boxes: Tensor,
    scores: Tensor | ChunkedScores,
    score_thr: float,
    iou_thr: float,
    max_num: int,
    topk: int = 4000,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class-wise NMS of class-agnostic boxes, equal to the exhaustive one.

    NMS is greedy: a detection depends on better ones only. So it is enough to
    look at the best ``topk`` (box, class) pairs and to take twice as many as
    long as fewer than ``max_num`` of them survive. The boxes, (N, 4), are
    never expanded to all N x K pairs.

    ``scores`` are (N, K) without background, or what computes the best of
    them. Returns boxes (M, 4), scores (M, ), labels int64 (M, ), indices of
    the proposals int64 (M, ); best first.
    """
    total, num_classes = scores.shape[0] * scores.shape[1], scores.shape[1]
    while True:
        if isinstance(scores, ChunkedScores):
            best, pairs = scores.best(topk)
        else:
            best, pairs = scores.flatten().topk(min(topk, total))
        enough = best > score_thr
        best, pairs = best[enough], pairs[enough]
        exhausted = len(pairs) < topk or len(pairs) == total
        inds = pairs // max(num_classes, 1)
        labels = pairs % max(num_classes, 1)
        keep = (
            pairs[:0]
            if len(pairs) == 0
            else _nms_by_class(boxes[inds], best, labels, iou_thr)
        )
        if exhausted or len(keep) >= max_num:
            break
        topk *= 2
    keep = keep[:max_num]
    return boxes[inds[keep]], best[keep], labels[keep], inds[keep]


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
        """Sample RoIs (batch index, x1, y1, x2, y2): (N, C, *output_size).

        All is float32. The far corner may lie before the near one; the crop is
        then mirrored, as in the release.
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
        """Level of each RoI, from 0, int64, (N, )."""
        sides = (rois[:, 3:] - rois[:, 1:3]).clamp(min=0)
        rois = torch.cat([torch.zeros_like(rois[:, :3]), sides], dim=1)
        return super().map_roi_levels(rois, num_levels)

    def forward(
        self,
        feats: tuple[Tensor, ...],
        rois: Tensor,
        roi_scale_factor: float | None = None,
    ) -> Tensor:
        """Extract float32 features (N, C, size, size) of maps of any type.

        ``roi_scale_factor`` scales RoIs about their centres after their level
        was chosen; it is ignored for one level.
        """
        with torch.autocast(rois.device.type, enabled=False):
            feats = tuple(feat.float() for feat in feats)
            if is_symbolic(rois.shape[0]):
                return self._from_all_levels(feats, rois.float())
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

    def _from_all_levels(
        self, feats: tuple[Tensor, ...], rois: Tensor
    ) -> Tensor:
        """The same where an exported graph leaves the number of RoIs open."""
        crops = [
            layer(feat, rois)
            for layer, feat in zip(self.roi_layers, feats, strict=False)
        ]
        result = crops[0]
        if len(crops) > 1:
            levels = self.map_roi_levels(rois, len(crops))
            levels = levels[:, None, None, None]
            for level, crop in enumerate(crops[1:], 1):
                result = torch.where(levels == level, crop, result)
        return result
