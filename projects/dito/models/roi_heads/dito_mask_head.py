# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Class-agnostic mask head with normalised convolutions."""

import math
from typing import List, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models.layers import NormedConv2d
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, InstanceList
from mmengine.model import ModuleList
from torch import Tensor

from ..layers import DITOLayerNorm2d


@MODELS.register_module()
class DITOMaskHead(FCNMaskHead):
    """One mask a box, whatever its class (release).

    Four normalised 3x3 convolutions and a 2x2 transposed convolution, each
    with bias, LayerNorm over channels and ReLU, then a normalised 1x1
    convolution. MMDetection's head has no norm after the transposed
    convolution and drops the biases beside a norm.

    Args:
        in_channels (int): Channels of the RoI features. Defaults to 256.
        conv_out_channels (int): Width. Defaults to 256.
        num_convs (int): Number of 3x3 convolutions. Defaults to 4.
        roi_feat_size (int): Cells a side of the RoI features; masks have
            twice as many. Defaults to 14.
        norm_eps (float): Epsilon of the LayerNorms. Defaults to 1e-6.
        loss_mask (dict): Sigmoid cross entropy, mean over pixels.
    """

    def __init__(
        self,
        in_channels: int = 256,
        *,
        conv_out_channels: int = 256,
        num_convs: int = 4,
        roi_feat_size: int = 14,
        norm_eps: float = 1e-6,
        loss_mask: ConfigType = dict(  # noqa: B006
            type='CrossEntropyLoss', use_mask=True, loss_weight=1.0)
    ) -> None:
        conv_cfg = dict(type=NormedConv2d, eps=1e-12)
        super().__init__(
            num_convs=num_convs,
            roi_feat_size=roi_feat_size,
            in_channels=in_channels,
            conv_out_channels=conv_out_channels,
            num_classes=1,
            class_agnostic=True,
            predictor_cfg=conv_cfg,
            loss_mask=loss_mask)
        channels = [in_channels] + [conv_out_channels] * num_convs
        self.convs = ModuleList(
            ConvModule(
                c_in,
                c_out,
                3,
                padding=1,
                bias=True,
                conv_cfg=conv_cfg,
                norm_cfg=dict(type=DITOLayerNorm2d, eps=norm_eps))
            for c_in, c_out in zip(channels, channels[1:], strict=False))
        self.upsample_norm = DITOLayerNorm2d(conv_out_channels, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits of RoI features.

        Args:
            x (Tensor): Shape (N, C, size, size).

        Returns:
            Tensor: float32, shape (N, 1, 2 * size, 2 * size).
        """
        for conv in self.convs:
            x = conv(x)
        x = F.relu(self.upsample_norm(self.upsample(x)))
        return self.conv_logits(x).float()

    def predict_by_feat(self,
                        mask_preds: Sequence[Tensor],
                        results_list: InstanceList,
                        batch_img_metas: List[dict],
                        rcnn_test_cfg: ConfigType,
                        rescale: bool = False,
                        activate_map: bool = False) -> InstanceList:
        """Masks of detections, in the whole image or in their boxes alone.

        Args:
            mask_preds (Sequence[Tensor]): Logits, (N, 1, h, w) an image.
            results_list (InstanceList): Their boxes.
            batch_img_metas (List[dict]): Image sizes and scale factors;
                ``paste_masks=False`` leaves the masks in their boxes, for
                :func:`paste_mask`.
            rcnn_test_cfg (dict): ``mask_thr_binary``.
            rescale (bool): Whether masks have the original size.
            activate_map (bool): Whether ``mask_preds`` are probabilities.

        Returns:
            InstanceList: With ``masks``, bool (N, H, W); or ``box_masks``,
            probabilities (N, h, w).
        """
        for preds, found, meta in zip(
                mask_preds, results_list, batch_img_metas, strict=True):
            if meta.get('paste_masks', True):
                super().predict_by_feat([preds], [found], [meta],
                                        rcnn_test_cfg, rescale, activate_map)
                continue
            probabilities = preds if activate_map else preds.sigmoid()
            found.box_masks = probabilities[:, 0]
            if rescale:
                found.bboxes /= found.bboxes.new_tensor(
                    meta['scale_factor']).repeat(2)
        return results_list

    def _predict_by_feat_single(self,
                                mask_preds: Tensor,
                                bboxes: Tensor,
                                labels: Tensor,
                                img_meta: dict,
                                rcnn_test_cfg: ConfigType,
                                rescale: bool = False,
                                activate_map: bool = False) -> Tensor:
        """Paste the masks of one image into it.

        Boxes clipped to the padded input (release) may lie in the padding
        alone, or be inverted, on which MMDetection's pasting fails on CPUs;
        their masks are empty.

        Args:
            mask_preds (Tensor): Logits, shape (N, 1, h, w).
            bboxes (Tensor): Boxes in pixels of the input, shape (N, 4);
                rescaled in place, as by MMDetection.
            labels (Tensor): Shape (N, ).
            img_meta (dict): ``ori_shape`` and ``scale_factor``.
            rcnn_test_cfg (dict): ``mask_thr_binary``.
            rescale (bool): Whether masks have the original size.
            activate_map (bool): Whether ``mask_preds`` are probabilities.

        Returns:
            Tensor: bool, shape (N, H, W).
        """
        scale = bboxes.new_tensor(img_meta['scale_factor'])
        limit = bboxes.new_tensor(img_meta['ori_shape'][1::-1]) * scale
        near, far = bboxes[:, :2], bboxes[:, 2:]
        inside = ((near < limit) & (far > 0) & (near <= far)).all(dim=1)
        if inside.all():
            return super()._predict_by_feat_single(
                mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale,
                activate_map)
        places = torch.where(inside[:, None], bboxes,
                             bboxes.new_tensor([0, 0, 1, 1]))
        masks = super()._predict_by_feat_single(
            mask_preds, places, labels, img_meta, rcnn_test_cfg, rescale,
            activate_map)
        masks[~inside] = 0
        if rescale:
            bboxes /= scale.repeat(2)
        return masks


# Pixels of a mask that are sampled at a time; a pixel takes 16 bytes.
_PIXELS = 1 << 20


def paste_mask(mask: Tensor, box: Tensor, shape: Tuple[int, int],
               threshold: float = 0.5) -> np.ndarray:
    """Paste one mask into its image, row by row.

    What MMDetection's pasting gives, with memory for the result alone: that
    of all masks of a photo of 12 megapixels takes 3.6 GB, and a single mask
    of one of 100 megapixels 1.4 GB while it is made.

    Args:
        mask (Tensor): Probabilities within the box, shape (h, w).
        box (Tensor): x1, y1, x2, y2 in pixels of the image, shape (4, ).
        shape (tuple[int, int]): Height H and width W of the image.
        threshold (float): Least probability of the object. Defaults to 0.5.

    Returns:
        ndarray: uint8 of 0 and 1, shape (H, W), column after column in
        memory, as run lengths count.
    """
    mask, box = mask.detach().float().cpu(), box.detach().float().cpu()
    pasted = np.zeros(shape, np.uint8, order='F')
    left, top, right, bottom = box.tolist()
    # A box in the padding of the input alone, or an inverted one.
    if not (left < min(right, shape[1]) and top < min(bottom, shape[0])
            and right > 0 and bottom > 0):
        return pasted
    x0, y0 = (max(math.floor(v) - 1, 0) for v in (left, top))
    x1 = min(math.ceil(right) + 1, shape[1])
    y1 = min(math.ceil(bottom) + 1, shape[0])
    columns = _places(x0, x1, box[0], box[2])
    rows = _places(y0, y1, box[1], box[3])
    step = max(_PIXELS // len(columns), 1)
    for start in range(0, len(rows), step):
        part = rows[start:start + step]
        grid = torch.stack([
            columns.expand(len(part), -1),
            part[:, None].expand(-1, len(columns))
        ], -1)
        values = F.grid_sample(
            mask[None, None], grid[None], align_corners=False)[0, 0]
        pasted[y0 + start:y0 + start + len(part),
               x0:x1] = (values >= threshold).numpy()
    return pasted


def _places(first: int, last: int, low: Tensor, high: Tensor) -> Tensor:
    """Centres of pixels within a box, from -1 to 1."""
    pixels = torch.arange(first, last).float() + 0.5
    places = (pixels - low) / (high - low) * 2 - 1
    return torch.where(places.isinf(), 0, places)
