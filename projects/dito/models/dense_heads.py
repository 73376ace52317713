# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Proposal head: centerness objectness and lrtb boxes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.ops import batched_nms, nms
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.utils import (
    ConfigType,
    InstanceList,
    OptConfigType,
    OptInstanceList,
    OptMultiConfig,
)
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .layers import DITOLayerNorm2d
from .targets import nonzero_all, sample_images

__all__ = [
    'DITORPNHead',
    'centerness',
    'distinct',
    'level_nms',
    'lrtb_to_tblr',
]


def lrtb_to_tblr(lrtb: Tensor) -> Tensor:
    """Reorder (left, right, top, bottom) to (top, bottom, left, right)."""
    return torch.cat([lrtb[..., 2:], lrtb[..., :2]], dim=-1)


def centerness(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Centerness of each anchor's centre in the box matched to it, (N, ).

    ``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))``, and 0 where the
    centre is not strictly inside the box (release).
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
    Boxes without area have an IoU of 0, with themselves too, and stay. Of (N,
    4), best first in a level, come ascending indices, int64.
    """
    rows = torch.cat([levels[:, None].to(boxes), boxes], dim=1)
    _, group = rows.unique(dim=0, return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(places, len(rows)).scatter_reduce(
        0, group, places, 'amin'
    )
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
    return places[((first[group] == places) | flat) & boxes.any(dim=1)]


def level_nms(
    boxes: Tensor, scores: Tensor, levels: Tensor, cfg: ConfigType
) -> Tensor:
    """NMS within each level, as mmcv's ``batched_nms``: indices, best first.

    mmcv sends a number to the device at each call and waits for it.
    """
    options = {k: v for k, v in cfg.items() if k != 'type'}
    # mmcv goes level by level above this number.
    plain = cfg.get('type', 'nms') == 'nms' and len(boxes) < 10000
    if not plain or set(options) != {'iou_threshold'}:
        return batched_nms(boxes, scores, levels, cfg)[1]
    apart = boxes + (levels.to(boxes) * (boxes.max() + 1))[:, None]
    return nms(apart, scores, **options)[1]


_BORDERS = ('image', 'input')


@MODELS.register_module()
class DITORPNHead(BaseDenseHead):
    """Class-free proposals by localisation quality (paper 4, release).

    Two 3x3 convolutions shared by all levels, each followed by a LayerNorm
    of the level's own and ReLU, then a 1x1 objectness and a 1x1 box
    convolution. There is one square anchor per place. Objectness is trained
    to be the centerness of the anchor in its box, not a class probability,
    so that objects without labels are not pushed down as background; it is
    also what region-centric pretraining warms up (paper 3.2).

    Args:
        in_channels (int): Channels of every input map.
        feat_channels (int): Channels of the shared convolutions. Defaults
            to 256.
        num_convs (int): Number of shared convolutions. Defaults to 2.
        num_levels (int): Number of input maps. Defaults to 4.
        num_classes (int): Always 1; passed by MMDetection's detectors.
        anchor_generator (dict): One anchor a place; the default has sides of
            8 strides, centred in each cell (release).
        bbox_coder (dict): A coder of (top, bottom, left, right) distances.
        box_border (str): 'image' clips boxes to the valid image area;
            'input' to [0, side - 1] of the padded network input, as the
            release does. Defaults to 'image'.
        norm_eps (float): Epsilon of the LayerNorms. Defaults to 1e-6.
        loss_center (dict): Loss between sigmoid scores and centerness.
        loss_bbox (dict): Loss between decoded boxes and ground truth.
        train_cfg (dict, optional): ``assigner`` and ``sampler`` of the
            objectness targets, ``bbox_assigner`` of the box targets.
        test_cfg (dict, optional): ``nms_pre`` boxes per level before NMS,
            ``nms`` (None, or a threshold of 1 or more: no NMS),
            ``max_per_img``, ``min_bbox_size``, the side in pixels above
            which a proposal is kept (negative keeps all), and
            ``drop_duplicates``: instead of NMS leave out equal boxes of one
            level and boxes of four zeros (release, whose NMS at inference
            has a threshold of 1).
        init_cfg (dict, optional): Normal with deviation 0.01 by default.
    """

    def __init__(
        self,
        in_channels: int,
        feat_channels: int = 256,
        num_convs: int = 2,
        num_levels: int = 4,
        num_classes: int = 1,
        anchor_generator: ConfigType = dict(  # noqa: B006
            type='AnchorGenerator',
            scales=[8],
            ratios=[1.0],
            strides=[4, 8, 16, 32],
            center_offset=0.5,
        ),
        bbox_coder: ConfigType = dict(  # noqa: B006
            type='TBLRBBoxCoder', normalizer=1.0
        ),
        box_border: str = 'image',
        norm_eps: float = 1e-6,
        loss_center: ConfigType = dict(  # noqa: B006
            type='L1Loss', loss_weight=1.0
        ),
        loss_bbox: ConfigType = dict(  # noqa: B006
            type='IoULoss', mode='linear', loss_weight=8.0
        ),
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        init_cfg: OptMultiConfig = dict(  # noqa: B006
            type='Normal', layer='Conv2d', std=0.01
        ),
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if box_border not in _BORDERS:
            raise ValueError(
                f'box_border is {box_border!r}; use one of '
                f'{", ".join(map(repr, _BORDERS))}.'
            )
        self.box_border = box_border
        self.prior_generator = TASK_UTILS.build(anchor_generator)
        if self.prior_generator.num_levels != num_levels or set(
            self.prior_generator.num_base_priors
        ) != {1}:
            raise ValueError(
                f'The anchor generator has {self.prior_generator.num_levels} '
                f'levels with {self.prior_generator.num_base_priors} anchors '
                f'a place; this head needs {num_levels} with one each.'
            )
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.loss_center = MODELS.build(loss_center)
        self.loss_bbox = MODELS.build(loss_bbox)
        self.train_cfg, self.test_cfg = train_cfg, test_cfg
        if train_cfg:
            self.assigner = TASK_UTILS.build(train_cfg['assigner'])
            self.bbox_assigner = TASK_UTILS.build(train_cfg['bbox_assigner'])
            self.sampler = TASK_UTILS.build(train_cfg['sampler'])

        channels = [in_channels] + [feat_channels] * num_convs
        self.rpn_convs = nn.ModuleList(
            nn.Conv2d(c_in, c_out, 3, padding=1)
            for c_in, c_out in zip(channels, channels[1:], strict=False)
        )
        self.rpn_norms = nn.ModuleList(
            nn.ModuleList(
                DITOLayerNorm2d(feat_channels, eps=norm_eps)
                for _ in range(num_convs)
            )
            for _ in range(num_levels)
        )
        self.rpn_cls = nn.Conv2d(channels[-1], 1, 1)
        self.rpn_reg = nn.Conv2d(channels[-1], 4, 1)

    def _hidden(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """Shared convolutions with the norms of each level."""
        if len(feats) != len(self.rpn_norms):
            raise ValueError(
                f'DITORPNHead was built for '
                f'{len(self.rpn_norms)} maps, got {len(feats)}.'
            )
        hidden = []
        for feat, norms in zip(feats, self.rpn_norms, strict=True):
            for conv, norm in zip(self.rpn_convs, norms, strict=True):
                feat = F.relu(norm(conv(feat)))
            hidden.append(feat)
        return hidden

    def forward_objectness(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """Objectness logits alone, float32, (B, 1, h, w) a level."""
        return [self.rpn_cls(x).float() for x in self._hidden(feats)]

    def forward(
        self, feats: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness logits and box distances of all places.

        Logits (B, 1, h, w) and (left, right, top, bottom) distances (B, 4, h,
        w) in units of the anchor's sides, float32 also under autocast:
        bfloat16 would round coordinates by more than a pixel.
        """
        self._move_anchors(feats[0].device)
        hidden = self._hidden(feats)
        return (
            [self.rpn_cls(x).float() for x in hidden],
            [self.rpn_reg(x).float() for x in hidden],
        )

    def _border(self, img_meta: dict) -> tuple[int, int]:
        """Largest y and x a box may have."""
        if self.box_border == 'image':
            return tuple(img_meta['img_shape'][:2])
        height, width = img_meta['batch_input_shape'][:2]
        return height - 1, width - 1

    def _decode(self, anchors: Tensor, lrtb: Tensor, img_meta: dict) -> Tensor:
        """Boxes (x1, y1, x2, y2) of distances (N, 4), clipped, (N, 4)."""
        boxes = self.bbox_coder.decode(anchors, lrtb_to_tblr(lrtb))
        height, width = self._border(img_meta)
        x, y = boxes[:, ::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
        return torch.stack([x, y], dim=-1).flatten(1)

    def get_targets(
        self, anchors: Tensor, gt_instances: InstanceData
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Training targets of one image of A anchors.

        Objectness and boxes have labellers of their own (release: 0.3 / 0.1
        and 0.7 / 0.3, both with a forced match of the best anchor of each
        box); only objectness is sampled. Returns centerness targets (A, ), -1
        where not sampled; indices of anchors with a box target, int64 (P, );
        their ground-truth boxes (P, 4).
        """
        (targets,) = self._targets_of(anchors, [gt_instances])
        return targets

    def _targets_of(
        self, anchors: Tensor, batch_gt_instances: InstanceList
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Targets of all images; see :meth:`get_targets`."""
        assigned, matched = [], []
        for gt in batch_gt_instances:
            overlaps = self.assigner.iou_calculator(gt.bboxes, anchors)
            assigned.append(
                self.assigner.assign_wrt_overlaps(overlaps, gt.labels)
            )
            matched.append(
                self.bbox_assigner.assign_wrt_overlaps(
                    overlaps, gt.labels
                ).gt_inds
            )
        samples = sample_images(
            self.sampler,
            assigned,
            [anchors] * len(assigned),
            batch_gt_instances,
        )
        boxed = nonzero_all([number > 0 for number in matched])
        results = []
        for gt, sample, number, inds in zip(
            batch_gt_instances, samples, matched, boxed, strict=True
        ):
            targets = anchors.new_full((len(anchors),), -1.0)
            targets[sample.neg_inds] = 0.0
            targets[sample.pos_inds] = centerness(
                sample.pos_priors, sample.pos_gt_bboxes
            )
            boxes = gt.bboxes[number[inds] - 1].reshape(-1, 4)
            results.append((targets, inds, boxes))
        return results

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict:
        """Centerness and box losses (release).

        Both are sums over anchors divided by the number of objectness samples
        a full batch has, 256 per image. Crowd boxes take no part.
        """
        priors = self._anchors(cls_scores)
        anchors = torch.cat(priors)
        scores = torch.cat([s.flatten(1) for s in cls_scores], 1).sigmoid()
        lrtb = torch.cat([p.flatten(2) for p in bbox_preds], 2).mT
        targets, boxes, gt_boxes = [], [], []
        for i, (target, inds, gt) in enumerate(
            self._targets_of(anchors, batch_gt_instances)
        ):
            targets.append(target)
            boxes.append(
                self._decode(anchors[inds], lrtb[i, inds], batch_img_metas[i])
            )
            gt_boxes.append(gt)
        target, box, gt = map(torch.cat, (targets, boxes, gt_boxes))
        avg_factor = self.sampler.num * len(batch_gt_instances)
        loss_center = self.loss_center(
            scores.flatten(),
            target,
            weight=(target >= 0).float(),
            avg_factor=avg_factor,
        )
        # Without matched anchors the box branch must still get a gradient.
        loss_bbox = (
            self.loss_bbox(box, gt, avg_factor=avg_factor)
            if len(box)
            else lrtb.sum() * 0
        )
        return dict(loss_rpn_center=loss_center, loss_rpn_bbox=loss_bbox)

    def _anchors(self, maps: list[Tensor]) -> list[Tensor]:
        """Anchors (h * w, 4), row by row, of each level."""
        self._move_anchors(maps[0].device)
        return self.prior_generator.grid_priors(
            [m.shape[-2:] for m in maps],
            dtype=torch.float32,
            device=maps[0].device,
        )

    def _move_anchors(self, device: torch.device) -> None:
        """Move the anchors of a cell to a device, once for all calls."""
        anchors = self.prior_generator.base_anchors
        if anchors[0].device != device:
            self.prior_generator.base_anchors = [a.to(device) for a in anchors]

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[None],
        mlvl_priors: list[Tensor],
        img_meta: dict,
        cfg: OptConfigType = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        """Proposals of one image, best first: boxes, scores, labels of 0."""
        cfg = self.test_cfg if cfg is None else cfg
        anchors, lrtbs, scores, levels = [], [], [], []
        for level, (logits, lrtb, priors) in enumerate(
            zip(cls_score_list, bbox_pred_list, mlvl_priors, strict=True)
        ):
            score = logits.flatten().sigmoid()
            # Of equal scores the first ones count (release), on any device.
            score, inds = score.sort(descending=True, stable=True)
            score, inds = score[: cfg['nms_pre']], inds[: cfg['nms_pre']]
            anchors.append(priors[inds])
            lrtbs.append(lrtb.flatten(1).mT[inds])
            scores.append(score)
            levels.append(torch.full_like(inds, level))
        results = InstanceData(
            bboxes=self._decode(
                torch.cat(anchors), torch.cat(lrtbs), img_meta
            ),
            scores=torch.cat(scores),
            level_ids=torch.cat(levels),
        )
        return self._select(results, cfg, img_meta, rescale, with_nms)

    def _select(
        self,
        results: InstanceData,
        cfg: ConfigType,
        img_meta: dict,
        rescale: bool,
        with_nms: bool,
    ) -> InstanceData:
        """Drop small and overlapping boxes, keep the best."""
        min_size = cfg.get('min_bbox_size', -1)
        if min_size >= 0:
            sides = results.bboxes[:, 2:] - results.bboxes[:, :2]
            # As indices: a mask would be counted for each of the fields.
            large = (sides > min_size).all(dim=1).nonzero().squeeze(1)
            results = results[large]
        nms_cfg: ConfigType | None = cfg.get('nms')
        if with_nms and cfg.get('drop_duplicates', False):
            results, nms_cfg = (
                results[distinct(results.bboxes, results.level_ids)],
                None,
            )
        if (
            with_nms
            and nms_cfg
            and nms_cfg['iou_threshold'] < 1
            and len(results)
        ):
            keep = level_nms(
                results.bboxes, results.scores, results.level_ids, nms_cfg
            )
        else:
            keep = results.scores.argsort(descending=True, stable=True)
        results = results[keep[: cfg['max_per_img']]]
        results.labels = torch.zeros_like(results.pop('level_ids'))
        if rescale:
            factor = results.bboxes.new_tensor(img_meta['scale_factor'])
            results.bboxes = results.bboxes / factor.repeat(2)
        return results
