# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Class-agnostic mask head with normalised convolutions.

In shapes N are RoIs, (h, w) the sides of their masks and (H, W) those of an
image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.ops import roi_align
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import ConfigType, InstanceList
from mmengine.model import ModuleList
from torch import Tensor
from torch.nn.modules.utils import _pair

from ..layers import DITOLayerNorm2d, DITONormedConv2d
from .box_masks import paste_masks


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
        roi_feat_size (int): Cells per side of the RoI features; masks have
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
            type='CrossEntropyLoss', use_mask=True, loss_weight=1.0
        ),
    ) -> None:
        conv_cfg = dict(type=DITONormedConv2d, eps=1e-12)
        super().__init__(
            num_convs=num_convs,
            roi_feat_size=roi_feat_size,
            in_channels=in_channels,
            conv_out_channels=conv_out_channels,
            num_classes=1,
            class_agnostic=True,
            predictor_cfg=conv_cfg,
            loss_mask=loss_mask,
        )
        channels = [in_channels] + [conv_out_channels] * num_convs
        self.convs = ModuleList(
            ConvModule(
                c_in,
                c_out,
                3,
                padding=1,
                bias=True,
                conv_cfg=conv_cfg,
                norm_cfg=dict(type=DITOLayerNorm2d, eps=norm_eps),
            )
            for c_in, c_out in zip(channels, channels[1:], strict=False)
        )
        self.upsample_norm = DITOLayerNorm2d(conv_out_channels, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits, float32 (N, 1, 2 * size, 2 * size), of RoI features."""
        for conv in self.convs:
            x = conv(x)
        x = F.relu(self.upsample_norm(self.upsample(x)))
        return self.conv_logits(x).float()

    def get_targets(
        self,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigType,
    ) -> Tensor:
        """Masks of the objects within their foreground RoIs, float32.

        MMDetection fetches the RoIs of each image from the device. Here its
        pixels, which the loader's workers have drawn, are sent there and
        cropped; the numbers are the same. Objects kept as polygons are left to
        MMDetection.
        """
        masks = [gt.masks for gt in batch_gt_instances]
        if not all(isinstance(m, BitmapMasks) for m in masks):
            return super().get_targets(
                sampling_results, batch_gt_instances, rcnn_train_cfg
            )
        targets = torch.cat(
            [
                _crop(mask, res, _pair(rcnn_train_cfg['mask_size']))
                for mask, res in zip(masks, sampling_results, strict=True)
            ]
        )
        if rcnn_train_cfg.get('soft_mask_target', False):
            return targets
        return (targets >= 0.5).float()

    def predict_by_feat(
        self,
        mask_preds: Sequence[Tensor],
        results_list: InstanceList,
        batch_img_metas: list[dict],
        rcnn_test_cfg: ConfigType,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> InstanceList:
        """Masks of detections in the form that their image asks for.

        Its ``mask_form`` is 'dense' (default), MMDetection's bool (N, H, W);
        'rle', :class:`.RunLengthMasks`, pasted one at a time; or 'box':
        ``box_masks``, probabilities (N, h, w), with ``mask_thr`` among their
        meta data.
        """
        for preds, found, meta in zip(
            mask_preds, results_list, batch_img_metas, strict=True
        ):
            form = meta.get('mask_form', 'dense')
            if form == 'dense':
                super().predict_by_feat(
                    [preds],
                    [found],
                    [meta],
                    rcnn_test_cfg,
                    rescale,
                    activate_map,
                )
                continue
            masks = (preds if activate_map else preds.sigmoid())[:, 0]
            scale = found.bboxes.new_tensor(meta['scale_factor'])
            shape = meta['ori_shape'][:2]
            if rescale:
                found.bboxes /= scale.repeat(2)
            else:
                shape = [
                    round(side * factor)
                    for side, factor in zip(
                        shape, reversed(scale.tolist()), strict=True
                    )
                ]
            if form == 'rle':
                found.masks = paste_masks(
                    masks, found.bboxes, shape, rcnn_test_cfg.mask_thr_binary
                )
            else:
                found.box_masks = masks
                found.set_metainfo(
                    dict(mask_thr=rcnn_test_cfg.mask_thr_binary)
                )
        return results_list

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: ConfigType,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor:
        """Paste the masks of one image into it, bool (N, H, W)."""
        scale = bboxes.new_tensor(img_meta['scale_factor'])
        limit = bboxes.new_tensor(img_meta['ori_shape'][1::-1]) * scale
        near, far = bboxes[:, :2], bboxes[:, 2:]
        inside = ((near < limit) & (far > 0) & (near <= far)).all(dim=1)
        places = torch.where(
            inside[:, None], bboxes, bboxes.new_tensor([0, 0, 1, 1])
        )
        masks = super()._predict_by_feat_single(
            mask_preds,
            places,
            labels,
            img_meta,
            rcnn_test_cfg,
            rescale,
            activate_map,
        )
        masks[~inside] = 0
        if rescale:
            bboxes /= scale.repeat(2)
        return masks


def _crop(
    masks: BitmapMasks, result: SamplingResult, size: tuple[int, int]
) -> Tensor:
    """Shares of the cells of an image's RoIs that its masks cover."""
    boxes, owner = result.pos_priors, result.pos_assigned_gt_inds
    if not len(boxes):
        return boxes.new_zeros(0, *size)
    x = boxes[:, ::2].clamp(0, masks.width)
    y = boxes[:, 1::2].clamp(0, masks.height)
    pixels = torch.from_numpy(masks.masks).to(boxes.device, non_blocking=True)
    if len(pixels) > len(boxes):
        pixels = pixels.index_select(0, owner)
        owner = torch.arange(len(boxes), device=boxes.device)
    rois = torch.stack([x, y], dim=-1).flatten(1)
    rois = torch.cat([owner[:, None].to(rois), rois], dim=1)
    pixels = pixels[:, None].to(rois.dtype)
    return roi_align(pixels, rois, size, 1.0, 0, 'avg', True).squeeze(1)
