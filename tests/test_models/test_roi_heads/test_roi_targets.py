# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Second-stage targets against the release: matches, samples, masks."""

import numpy as np
import pytest
import torch
from golden_arrays import XYXY, close
from mask_target_ops import crop_box_masks
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData


@pytest.fixture
def arrays(golden):
    return golden('roi_targets')


@pytest.fixture
def images(arrays):
    return range(len(arrays['in/proposals']))


def cfg(arrays, name):
    return float(arrays[f'cfg/{name}'])


def build_assigner(arrays):
    return TASK_UTILS.build(
        dict(
            type='MaxIoUAssigner',
            pos_iou_thr=cfg(arrays, 'fg_iou'),
            neg_iou_thr=cfg(arrays, 'bg_iou_high'),
            match_low_quality=False,
        )
    )


def xyxy(array):
    return torch.from_numpy(array[..., XYXY])


def assigned(arrays, image):
    """Candidates (proposals, then real ground truth) and their matches."""
    count = int((arrays['in/gt_classes'][image] > 0).sum())
    proposals = xyxy(arrays['in/proposals'][image])
    gt = InstanceData(
        bboxes=xyxy(arrays['in/gt_boxes'][image][:count]),
        labels=torch.from_numpy(arrays['in/gt_classes'][image][:count]).long()
        - 1,
    )
    boxes = torch.cat([proposals, gt.bboxes])
    result = build_assigner(arrays).assign(InstanceData(priors=boxes), gt)
    return boxes, gt, proposals, result


def test_matches(arrays, images):
    threshold = cfg(arrays, 'fg_iou')
    for image in images:
        boxes, _, _, result = assigned(arrays, image)
        num = len(boxes)
        iou = arrays['mid/matched_iou'][image, :num]
        np.testing.assert_allclose(result.max_overlaps, iou, atol=1e-6)
        # Exactly at the threshold is neither in the release, foreground
        # here; what rounding may move over it is left out too.
        sure = np.abs(iou - threshold) > 1e-6
        foreground = sure & (iou > threshold)
        got = result.gt_inds.numpy()
        np.testing.assert_array_equal(got[sure] > 0, foreground[sure])
        np.testing.assert_array_equal(
            got[foreground] - 1,
            arrays['mid/matched_gt_indices'][image, :num][foreground],
        )
        assert (got >= 0).all() and foreground.any()


def test_what_belongs_to_a_sampled_roi(arrays, images):
    coder = TASK_UTILS.build(dict(type='DITOPlusOneBBoxCoder'))
    for image in images:
        boxes, gt, _, result = assigned(arrays, image)
        rois = xyxy(arrays['out/sampled_rois'][image])
        classes = arrays['out/sampled_classes'][image]
        real = ~(rois == -1).all(dim=1).numpy()
        # Rows of padding can be drawn as background there; here there are
        # none.
        assert real.any() and not classes[~real].any()
        rows = [
            int((boxes == roi).all(dim=1).nonzero()[0, 0])
            for roi in rois[real]
        ]
        index = result.gt_inds[rows] - 1
        np.testing.assert_array_equal(index >= 0, classes[real] > 0)
        used = index >= 0
        index, rois = index[used], rois[real][used]
        np.testing.assert_array_equal(
            gt.labels[index] + 1, classes[real][used]
        )
        matched = gt.bboxes[index]
        assert torch.equal(
            matched, xyxy(arrays['out/sampled_gt_boxes'][image])[real][used]
        )
        # Differences of coordinates, over a tenth of the box.
        close(
            coder.encode(rois, matched),
            xyxy(arrays['out/box_targets'][image])[real][used],
            1e-5,
        )


def test_number_of_samples(arrays, images):
    sampler = TASK_UTILS.build(
        dict(
            type='RandomSampler',
            num=int(cfg(arrays, 'num_samples')),
            pos_fraction=cfg(arrays, 'fg_fraction'),
            add_gt_as_proposals=True,
        )
    )
    for image in images:
        _, gt, proposals, result = assigned(arrays, image)
        classes = arrays['out/sampled_classes'][image]
        priors = InstanceData(priors=proposals)
        sample = sampler.sample(
            build_assigner(arrays).assign(priors, gt), priors, gt
        )
        assert len(sample.pos_inds) == (classes > 0).sum()
        # The release fills up with its rows of padding where it must.
        available = int((result.gt_inds == 0).sum())
        assert len(sample.neg_inds) == min((classes == 0).sum(), available)


def test_mask_targets(arrays, images):
    boxes = xyxy(arrays['out/sampled_gt_boxes'])
    inds = arrays['out/sampled_gt_indices']
    for image in images:
        rois = xyxy(arrays['mask/out/rois'][image])
        # Those of foreground, then of background, as top_k draws.
        order = np.argsort(
            arrays['out/sampled_classes'][image] <= 0, kind='stable'
        )[: len(rois)]
        assert torch.equal(
            rois, xyxy(arrays['out/sampled_rois'][image])[order]
        )
        real = arrays['mask/out/classes'][image] > 0
        assert real.any()
        masks = torch.from_numpy(
            arrays['mask/in/gt_masks'][image][inds[image][order]]
        )
        got = crop_box_masks(masks, boxes[image][order], rois)
        # Weights of interpolation are fractions of cells of the mask.
        np.testing.assert_allclose(
            got[real],
            arrays['mask/out/targets'][image][real],
            atol=1e-6 * masks.shape[-1],
        )
        assert 0 <= got.min() < got.max() <= 1.0001
