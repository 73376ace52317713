# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The whole detector, built from the shipped config, against the release."""

import numpy as np
import pytest
import torch
from golden_arrays import (
    NETWORK,
    ROUNDING,
    XYXY,
    close,
    close_ranked,
    group,
    levels,
    load_golden,
)
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from official_detector import build_official, images, samples

from dito.utils.official import convert_official

# A score is a power of probabilities of logits that are cosines over 0.01:
# what a cosine loses to rounding, the score loses a hundred times of it.
SCORE = 100 * ROUNDING


@pytest.fixture(scope='module')
def arrays():
    return load_golden('detector_end_to_end')


@pytest.fixture(scope='module')
def model(arrays):
    return build_official(arrays)


@pytest.fixture(scope='module')
def maps(arrays, model):
    torch.set_num_threads(1)
    with torch.no_grad():
        pyramid, feat = model.extract_maps(images(arrays))
        return pyramid, feat, model.vlm_map(images(arrays), feat)


def last(array):
    """Background is the first class there and the last one here."""
    return np.roll(array, -1, axis=-1)


def flat(array):
    """Rows of all images."""
    return array.reshape(-1, array.shape[-1])


def side(arrays):
    """Boxes are of anchors as large as the image: so is their rounding."""
    return max(arrays['in/image'].shape[1:3])


def channels_last(x):
    return x.permute(0, 2, 3, 1)


def golden_proposals(arrays, rois='mid/rois'):
    return [
        InstanceData(
            bboxes=torch.from_numpy(arrays[rois][i][:, XYXY]),
            scores=torch.from_numpy(arrays['mid/roi_scores'][i]),
        )
        for i in range(len(arrays[rois]))
    ]


def test_backbones(arrays, maps):
    close(channels_last(maps[1]), arrays['mid/vision_features_4'])
    close(channels_last(maps[2]), arrays['mid/frozen_features_4'])


@torch.no_grad()
def test_proposals(arrays, model, maps):
    logits, boxes = model.rpn_head(maps[0])
    numbers = levels(arrays, 'mid/rpn_logits_')
    for i, logit, box in zip(numbers, logits, boxes, strict=True):
        close(channels_last(logit), arrays[f'mid/rpn_logits_{i}'])
        close(channels_last(box), arrays[f'mid/rpn_lrtb_{i}'])
    proposals = model.rpn_head.predict(maps[0], samples(arrays))
    for i, got in enumerate(proposals):
        real = arrays['mid/roi_scores'][i] > 0
        close_ranked(
            (got.scores, got.bboxes[:, XYXY]),
            (arrays['mid/roi_scores'][i][real], arrays['mid/rois'][i][real]),
            NETWORK,
            NETWORK,
            side(arrays),
        )


@torch.no_grad()
def test_regions(arrays, model, maps):
    head = model.roi_head
    rois = bbox2roi([p.bboxes for p in golden_proposals(arrays)])
    crops = head.bbox_roi_extractor(maps[0], rois)
    close(head.bbox_head.embed(crops), flat(arrays['mid/box_features']))
    close(head.bbox_head(crops)[1], flat(arrays['out/box_outputs'])[:, XYXY])
    metas = [s.metainfo for s in samples(arrays)]
    close(
        head.vlm_embed(maps[2], rois, metas),
        flat(arrays['mid/vlm_roi_features']),
    )


@pytest.mark.parametrize('indicator', [False, True])
@torch.no_grad()
def test_class_scores(arrays, maps, indicator):
    model = build_official(arrays, indicator)
    got = model.roi_head.predict_bbox(
        maps[0],
        [s.metainfo for s in samples(arrays)],
        golden_proposals(arrays),
        rcnn_test_cfg=None,
        vlm_feat=maps[2],
    )
    key = ('with_indicator/' if indicator else '') + 'out/class_scores'
    for mine, theirs in zip(got, arrays[key], strict=True):
        close(mine.scores, last(theirs), SCORE)


@pytest.mark.parametrize('scale', [1.0, 0.512])
@pytest.mark.parametrize('indicator', [False, True])
@torch.no_grad()
def test_detections(arrays, indicator, scale):
    model = build_official(arrays, indicator)
    results = model.predict(
        images(arrays), samples(arrays, scale), rescale=True
    )
    key = ('with_indicator/' if indicator else '') + 'out/detection'
    for i, result in enumerate(results):
        got = result.pred_instances
        real = arrays[f'{key}_scores'][i] > 0
        close_ranked(
            (got.scores, got.bboxes[:, XYXY] * scale, got.labels + 1),
            [
                arrays[f'{key}_{name}'][i][real]
                for name in ('scores', 'boxes', 'classes')
            ],
            SCORE,
            NETWORK,
            side(arrays),
        )


@torch.no_grad()
def test_masks_of_the_detections(arrays, model, maps):
    key = 'out/detection_masks_first'
    (name,) = (k for k in arrays if k.startswith(key))
    masks = arrays[name]
    boxes = torch.from_numpy(
        arrays['out/detection_boxes'][:, : masks.shape[1]][..., XYXY]
    )
    head = model.roi_head
    logits = head.mask_head(
        head.mask_roi_extractor(maps[0], bbox2roi(list(boxes)))
    )
    # The stored masks keep 4 mantissa bits.
    np.testing.assert_allclose(
        logits.sigmoid().view(masks.shape), masks, rtol=0.04, atol=1e-6
    )


def golden_loss(arrays, model):
    """Losses of the training pass with the stored targets, and logits."""
    pyramid, _ = model.extract_maps(images(arrays))
    level = [
        (
            torch.from_numpy(arrays[f'train/in/rpn_score_targets_{i}']),
            torch.from_numpy(arrays[f'train/in/rpn_box_targets_{i}']),
        )
        for i in levels(arrays, 'train/in/rpn_score_targets_')
    ]
    turn = iter(range(len(arrays['in/image'])))

    def targets(anchors, gt_instances):
        i = next(turn)
        score = torch.cat([s[i].flatten() for s, _ in level])
        box = torch.cat([b[i].reshape(-1, 4) for _, b in level])[:, XYXY]
        inds = box.any(dim=1).nonzero(as_tuple=True)[0]
        return score, inds, box[inds]

    rpn, head = model.rpn_head, model.roi_head
    rpn._targets_of = lambda anchors, gts: [targets(anchors, g) for g in gts]
    rpn.sampler = InstanceDataNum(256)
    metas = [s.metainfo for s in samples(arrays)]
    losses = rpn.loss_by_feat(*rpn(pyramid), [None] * len(metas), metas)
    rois = torch.from_numpy(arrays['train/in/sampled_rois'][..., XYXY])
    gt = torch.from_numpy(arrays['train/in/sampled_gt_boxes'][..., XYXY])
    labels = torch.from_numpy(arrays['train/in/sampled_classes']).long()
    background = head.bbox_head.num_classes
    labels = torch.where(labels == 0, background, labels - 1).flatten()
    codes = (
        head.bbox_head.bbox_coder.encode(rois.flatten(0, 1), gt.flatten(0, 1))
        * (labels < background)[:, None]
    )
    logits, deltas = head.bbox_head(
        head.bbox_roi_extractor(pyramid, bbox2roi(list(rois)))
    )
    losses.update(head.bbox_head.loss(logits, deltas, labels, codes))
    return losses, logits, deltas, codes


class InstanceDataNum:
    """Stands for the sampler: number of samples of an image."""

    def __init__(self, num):
        self.num = num


def test_training(arrays):
    model = build_official(arrays)
    losses, logits, deltas, codes = golden_loss(arrays, model)
    close(logits, last(flat(arrays['train/out/class_logits'])))
    close(deltas, flat(arrays['train/out/box_outputs'])[:, XYXY])
    # Differences of coordinates, over a tenth or a fifth of the box.
    close(codes, flat(arrays['train/out/box_targets'])[:, XYXY], 1e-4)
    names = dict(
        loss_rpn_center='rpn_score_loss',
        loss_rpn_bbox='rpn_box_loss',
        loss_cls='fast_rcnn_class_loss',
        loss_bbox='fast_rcnn_box_loss',
    )
    for ours, theirs in names.items():
        close(losses[ours], arrays[f'train/out/{theirs}'])
    total = sum(losses[k] for k in names)
    close(total, arrays['train/out/total_loss'])
    total.backward()
    check_gradients(arrays, model)


def check_gradients(arrays, model):
    """Compare the norm of every parameter's gradient, and a few whole."""
    params = group(arrays, 'params/')
    # Conversion only moves numbers: number the arrays to see where each goes.
    paths = sorted(params)
    moved = convert_official(
        {p: np.full_like(params[p], i) for i, p in enumerate(paths)}
    )
    squares = np.zeros(len(paths))
    for name, param in model.named_parameters():
        if param.grad is not None:
            inds = moved[name].long().flatten()
            squares += (
                torch.zeros(len(paths), dtype=torch.float64)
                .index_add(0, inds, param.grad.flatten().double() ** 2)
                .numpy()
            )
    norms = group(arrays, 'train/grad_norm/')
    assert set(norms) == {
        p
        for p in paths
        if not p.startswith('frozen_') and '/maskrcnn_head_fn/' not in p
    }
    # Some, such as those of the biases of keys, are sums that cancel.
    rounding = 1e-7 * float(max(norms.values()))
    for path, norm in norms.items():
        got = squares[paths.index(path)] ** 0.5
        assert got == pytest.approx(norm, rel=2e-4, abs=rounding), path
    whole = group(arrays, 'train/grad/')
    converted = convert_official({**params, **whole})
    for name, param in model.named_parameters():
        inds = moved[name].long()
        for path in whole:
            mine = inds == paths.index(path)
            if mine.any():
                close(
                    param.grad[mine],
                    converted[name][mine],
                    1e-4,
                    float(np.abs(whole[path]).max()),
                )


def test_frozen_backbone_takes_no_gradient(arrays):
    model = build_official(arrays)
    model.train()
    assert not model.vlm_backbone.training
    assert not any(p.requires_grad for p in model.vlm_backbone.parameters())
    assert model.backbone.training
