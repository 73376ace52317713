# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Targets of a whole batch are those of MMDetection, object by object."""

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import TASK_UTILS
from mmdet.structures.mask import BitmapMasks, mask_target
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from dito.models import DITOMaskHead, DITORandomSampler
from dito.models.targets import DITOBoxOverlaps, nonzero_all, sample_images

ASSIGNERS = [
    dict(pos_iou_thr=0.3, neg_iou_thr=0.1, gt_max_assign_all=False),
    dict(pos_iou_thr=0.7, neg_iou_thr=0.3, gt_max_assign_all=True),
    dict(pos_iou_thr=0.5, neg_iou_thr=(0.1, 0.4), min_pos_iou=0.3),
    dict(pos_iou_thr=0.5, neg_iou_thr=0.5, match_low_quality=False),
    dict(pos_iou_thr=0.5, neg_iou_thr=0.5, ignore_iof_thr=0.5),
]


def boxes(num: int, side: int, seed: int) -> torch.Tensor:
    """Boxes on a coarse grid, so that many overlap alike, some are empty."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, side, (num, 2, 2)).astype(np.float32)
    near, far = corners.min(1), corners.max(1)
    return torch.from_numpy(np.concatenate([near, far], 1))


def objects(num: int, side: int, seed: int) -> InstanceData:
    """Objects of five classes; some have equal boxes."""
    found = boxes(num, side, seed)
    if num > 3:
        found[-1] = found[0]
    return InstanceData(bboxes=found, labels=torch.arange(num) % 5)


def build(number: int, kind: str = 'DITOMaxIoUAssigner') -> Any:
    """One of the assigners."""
    return TASK_UTILS.build(dict(type=kind, **ASSIGNERS[number]))


def same(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert got[name].dtype == value.dtype, name
            assert torch.equal(got[name], value), name
        else:
            assert got[name] == value, name


@pytest.mark.parametrize('num', [0, 1, 7, 40])
@pytest.mark.parametrize('number', range(len(ASSIGNERS)))
def test_matches_are_those_of_mmdet(number: int, num: int) -> None:
    ours, theirs = build(number), build(number, 'MaxIoUAssigner')
    ties = 0
    for seed in range(20):
        gt = objects(num, 8, seed)
        priors = InstanceData(priors=boxes(60, 8, 100 + seed))
        ignored = InstanceData(bboxes=boxes(2, 8, 200 + seed))
        same(
            ours.assign(priors, gt, ignored).info,
            theirs.assign(priors, gt, ignored).info,
        )
        overlaps = DITOBoxOverlaps()(gt.bboxes, priors.priors)
        best = overlaps == overlaps.amax(dim=1, keepdim=True)
        ties += int((best.sum(dim=1) > 1).sum())
    assert ties > 10 or num < 7


@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_overlaps_are_those_of_mmdet(mode: str) -> None:
    theirs = TASK_UTILS.build(dict(type='BboxOverlaps2D'))
    one, two = boxes(30, 9, 0), boxes(50, 9, 1) * 1.37
    assert torch.equal(
        DITOBoxOverlaps()(one, two, mode), theirs(one, two, mode)
    )
    with pytest.raises(ValueError, match='BboxOverlaps2D'):
        DITOBoxOverlaps()(one, two, 'giou')


@pytest.mark.parametrize('add_gt', [False, True])
@pytest.mark.parametrize(
    'num, fraction, limit', [(16, 0.25, -1), (16, 0.25, 2), (500, 0.5, -1)]
)
def test_samples_are_those_of_mmdet(
    num: int, fraction: float, limit: int, add_gt: bool
) -> None:
    cfg = dict(
        num=num,
        pos_fraction=fraction,
        neg_pos_ub=limit,
        add_gt_as_proposals=add_gt,
    )
    assigner = build(0)
    results = []
    for kind in ('RandomSampler', 'DITORandomSampler'):
        sampler = TASK_UTILS.build(dict(type=kind, **cfg))
        gts = [objects(n, 8, n) for n in (3, 0, 12, 1)]
        priors = [boxes(n, 8, 50 + n) for n in (40, 90, 60, 0)]
        assigned = [
            assigner.assign(InstanceData(priors=prior), gt)
            for prior, gt in zip(priors, gts, strict=True)
        ]
        torch.manual_seed(3)
        results.append(sample_images(sampler, assigned, priors, gts))
        results[-1].append(torch.rand(()))
    theirs, ours = results
    assert theirs.pop() == ours.pop()  # as many random numbers were drawn
    for got, expected in zip(ours, theirs, strict=True):
        same(got.info, expected.info)
        for name in ('pos_gt_labels', 'pos_gt_bboxes', 'neg_priors'):
            assert torch.equal(getattr(got, name), getattr(expected, name))


def test_one_image_is_sampled_as_in_a_batch() -> None:
    sampler = DITORandomSampler(num=8, pos_fraction=0.25)
    assigner = build(0)
    gt, prior = objects(5, 8, 0), boxes(40, 8, 1)
    infos = []
    for _ in range(2):
        result = assigner.assign(InstanceData(priors=prior), gt)
        torch.manual_seed(0)
        infos.append((result, InstanceData(priors=prior), gt))
    one = sampler.sample(*infos[0])
    torch.manual_seed(0)
    (other,) = sampler.sample_all([infos[1][0]], [prior], [gt])
    same(one.info, other.info)


def test_indices_of_several_masks() -> None:
    torch.manual_seed(0)
    masks = [
        torch.rand(n) > t for n, t in ((9, 0.5), (0, 0.5), (4, 2), (5, 0))
    ]
    for got, mask in zip(nonzero_all(masks), masks, strict=True):
        assert torch.equal(got, mask.nonzero().squeeze(1))
    assert nonzero_all([]) == []


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('num', [2, 30])
def test_mask_targets_are_those_of_mmdet(num: int, soft: bool) -> None:
    rng = np.random.default_rng(0)
    height, width = 40, 56
    cfg = ConfigDict(mask_size=28, soft_mask_target=soft)
    head = DITOMaskHead(8, conv_out_channels=8, num_convs=1)
    assigner = build(3)
    sampler = DITORandomSampler(num=20, pos_fraction=0.5)
    samples, gts = [], []
    for seed, count in enumerate((num, 0)):
        gt = objects(count, 40, seed)
        pixels = rng.integers(0, 2, (count, height, width), dtype=np.uint8)
        gt.masks = BitmapMasks(pixels, height, width)
        # Some reach over the image.
        prior = boxes(40, 70, seed) + torch.rand(40, 4) - 10
        result = assigner.assign(InstanceData(priors=prior), gt)
        samples += sampler.sample_all([result], [prior], [gt])
        gts.append(gt)
    expected = mask_target(
        [s.pos_priors for s in samples],
        [s.pos_assigned_gt_inds for s in samples],
        [gt.masks for gt in gts],
        cfg,
    )
    got = head.get_targets(samples, gts, cfg)
    assert len(got) > 1 and 0 < got.mean() < 1
    assert torch.equal(got, expected)
