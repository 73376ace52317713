# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Training targets that do not ask the device about every object.

On a GPU the host runs ahead of the device until it needs a result.
MMDetection's assigner asks for one twice an object and its sampler four times
an image. Here a batch asks once, and the results are MMDetection's, ties and
random numbers included.
"""

from collections.abc import Sequence

import torch
from mmdet.models.task_modules.assigners import AssignResult, MaxIoUAssigner
from mmdet.models.task_modules.samplers import (
    BaseSampler,
    RandomSampler,
    SamplingResult,
)
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor

__all__ = [
    'DITOBoxOverlaps',
    'DITOMaxIoUAssigner',
    'DITORandomSampler',
    'nonzero_all',
    'sample_images',
]


def nonzero_all(masks: Sequence[Tensor]) -> list[Tensor]:
    """Ascending indices of the true entries of several masks, waiting once."""
    if not masks:
        return []
    counts = torch.stack([mask.sum() for mask in masks]).tolist()
    found = []
    for mask, count in zip(masks, counts, strict=True):
        # A true entry goes to its place among them, a false one to the end.
        places = torch.where(mask, mask.cumsum(0) - 1, count)
        inds = places.new_empty(count + 1)
        entries = torch.arange(len(mask), device=mask.device)
        found.append(inds.scatter_(0, places, entries)[:count])
    return found


@TASK_UTILS.register_module()
class DITOBoxOverlaps:
    """IoU of boxes, as by MMDetection's ``BboxOverlaps2D``.

    MMDetection sends its smallest union to the device at each call and waits
    until it is there.
    """

    def __call__(
        self,
        bboxes1: Tensor,
        bboxes2: Tensor,
        mode: str = 'iou',
        is_aligned: bool = False,
    ) -> Tensor:
        """IoU, or with 'iof' that over the first area, of all pairs, (M, N).

        ValueError if it is asked for anything else.
        """
        if mode not in ('iou', 'iof') or is_aligned:
            raise ValueError(
                'DITOBoxOverlaps has the modes iou and iof of all pairs, got '
                f'mode={mode!r}, is_aligned={is_aligned}: use '
                "dict(type='BboxOverlaps2D')."
            )
        one, two = bboxes1[:, None], bboxes2[None]
        near = torch.maximum(one[..., :2], two[..., :2])
        far = torch.minimum(one[..., 2:], two[..., 2:])
        width, height = (far - near).clamp(min=0).unbind(-1)
        inner = width * height
        union = _areas(one)
        if mode == 'iou':
            union = union + _areas(two) - inner
        return inner / union.clamp(min=1e-6)


def _areas(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


@TASK_UTILS.register_module()
class DITOMaxIoUAssigner(MaxIoUAssigner):
    """``MaxIoUAssigner`` for all objects at once.

    Args:
        iou_calculator (dict): Of the overlaps. Defaults to
            :class:`DITOBoxOverlaps`.
        **kwargs: See MMDetection's ``MaxIoUAssigner``.
    """

    def __init__(
        self,
        *args,
        iou_calculator: dict = dict(  # noqa: B006
            type='DITOBoxOverlaps'
        ),
        **kwargs,
    ) -> None:
        super().__init__(*args, iou_calculator=iou_calculator, **kwargs)

    def assign_wrt_overlaps(
        self, overlaps: Tensor, gt_labels: Tensor
    ) -> AssignResult:
        """Match N boxes with K objects by (K, N) overlaps.

        ``gt_inds`` (N, ): -1 to be ignored, 0 background, k + 1 the object k;
        ``labels`` are -1 where there is no object.
        """
        num_gts, num_boxes = overlaps.shape
        if num_gts == 0 or num_boxes == 0:
            return super().assign_wrt_overlaps(overlaps, gt_labels)
        best, nearest = overlaps.max(dim=0)
        gt_inds = torch.full_like(nearest, -1)
        if isinstance(self.neg_iou_thr, (float, tuple)):
            low, high = (
                self.neg_iou_thr
                if isinstance(self.neg_iou_thr, tuple)
                else (0, self.neg_iou_thr)
            )
            gt_inds = gt_inds.masked_fill((best >= low) & (best < high), 0)
        gt_inds = torch.where(best >= self.pos_iou_thr, nearest + 1, gt_inds)
        if self.match_low_quality:
            forced = self._forced(overlaps)
            gt_inds = torch.where(forced > 0, forced, gt_inds)
        labels = gt_labels[(gt_inds - 1).clamp(min=0)]
        return AssignResult(
            num_gts, gt_inds, best, labels.where(gt_inds > 0, -1)
        )

    def _forced(self, overlaps: Tensor) -> Tensor:
        """Number (from 1) of the object that claims each box, 0 for none."""
        best, where = overlaps.max(dim=1)
        numbers = torch.arange(1, len(overlaps) + 1, device=overlaps.device)
        numbers = numbers.where(best >= self.min_pos_iou, 0)
        if self.gt_max_assign_all:
            claims = torch.where(
                overlaps == best[:, None], numbers[:, None].int(), 0
            )
            return claims.amax(dim=0).long()
        return numbers.new_zeros(overlaps.shape[1]).scatter_reduce(
            0, where, numbers, 'amax'
        )


@TASK_UTILS.register_module()
class DITORandomSampler(RandomSampler):
    """``RandomSampler`` for all images at once; see the parent's arguments.

    Images draw from torch's generator in their order, first foreground, then
    background, so that the samples are those of MMDetection.
    """

    def sample(
        self,
        assign_result: AssignResult,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        **kwargs,
    ) -> SamplingResult:
        """Sample one image; see :meth:`sample_all`."""
        (result,) = self.sample_all(
            [assign_result], [pred_instances.priors], [gt_instances]
        )
        return result

    def sample_all(
        self,
        assigned: Sequence[AssignResult],
        priors: Sequence[Tensor],
        gts: Sequence[InstanceData],
    ) -> list[SamplingResult]:
        """Sample boxes of all images; objects may be put before them."""
        boxes, flags = [], []
        for result, prior, gt in zip(assigned, priors, gts, strict=True):
            is_gt = prior.new_zeros(len(prior), dtype=torch.uint8)
            if self.add_gt_as_proposals and len(gt.bboxes):
                result.add_gt_(gt.labels)
                prior = torch.cat([gt.bboxes, prior])
                is_gt = torch.cat([is_gt.new_ones(len(gt.bboxes)), is_gt])
            boxes.append(prior)
            flags.append(is_gt)
        kinds = [r.gt_inds > 0 for r in assigned]
        kinds += [r.gt_inds == 0 for r in assigned]
        found = nonzero_all(kinds)
        num = len(assigned)
        pairs = self._choose(found[:num], found[num:])
        return [
            SamplingResult(pos, neg, prior, gt.bboxes, result, is_gt)
            for (pos, neg), prior, gt, result, is_gt in zip(
                pairs, boxes, gts, assigned, flags, strict=True
            )
        ]

    def _choose(
        self, foreground: Sequence[Tensor], background: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """Draw among the candidates of each image, ascending."""
        drawn: list[Tensor | None] = []
        for pos, neg in zip(foreground, background, strict=True):
            wanted = int(self.num * self.pos_fraction)
            drawn.append(_draw(len(pos), wanted))
            wanted = self.num - min(len(pos), wanted)
            if self.neg_pos_ub >= 0:
                limit = self.neg_pos_ub * max(1, self.num - wanted)
                wanted = min(wanted, int(limit))
            drawn.append(_draw(len(neg), wanted))
        candidates = [
            inds
            for pair in zip(foreground, background, strict=True)
            for inds in pair
        ]
        sizes = [0 if d is None else len(d) for d in drawn]
        if any(sizes):
            device = candidates[0].device
            sent = torch.cat([d for d in drawn if d is not None])
            rows = sent.to(device, non_blocking=True).split(sizes)
        chosen = [
            inds if draw is None else inds[rows[number]]
            for number, (inds, draw) in enumerate(
                zip(candidates, drawn, strict=True)
            )
        ]
        return list(zip(chosen[::2], chosen[1::2], strict=True))


def _draw(count: int, wanted: int) -> Tensor | None:
    """Some of ``count`` numbers, ascending; None for all of them."""
    if count <= wanted:
        return None
    return torch.randperm(count)[:wanted].sort().values


def sample_images(
    sampler: BaseSampler,
    assigned: Sequence[AssignResult],
    priors: Sequence[Tensor],
    gts: Sequence[InstanceData],
) -> list[SamplingResult]:
    """Sample all images: at once where the sampler can, else one by one."""
    if isinstance(sampler, DITORandomSampler):
        return sampler.sample_all(assigned, priors, gts)
    return [
        sampler.sample(result, InstanceData(priors=prior), gt)
        for result, prior, gt in zip(assigned, priors, gts, strict=True)
    ]
