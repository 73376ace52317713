# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Proposal head: golden numbers, targets, losses, edge cases."""

import numpy as np
import pytest
import torch
from golden_arrays import (
    ROUNDING,
    close,
    close_ranked,
    golden_cases,
    levels,
)
from mmcv.ops import batched_nms
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from tiny_detector import assigner, rpn_head, rpn_train_cfg

from dito.models import (
    DITORPNHead,
    centerness,
    distinct,
    level_nms,
    lrtb_to_tblr,
)

PASSES = golden_cases(
    'proposals', r'(out(?:_raw)?)/nms([\d.]+)_pre(\d+)_post(\d+)/rois'
)
CASES = golden_cases('centerness_targets', r'(\w+)/in/gt_boxes')


def xyxy(boxes):
    """Golden boxes are y1, x1, y2, x2."""
    return torch.from_numpy(boxes)[..., [1, 0, 3, 2]]


def maps(arrays):
    return [torch.from_numpy(a).permute(0, 3, 1, 2) for a in arrays]


def instances(boxes):
    return InstanceData(
        bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long)
    )


def build(**kwargs):
    return MODELS.build(rpn_head(train_cfg=rpn_train_cfg(), **kwargs))


def metas(*sizes):
    return [dict(img_shape=s, batch_input_shape=s) for s in sizes]


def test_centerness_against_loop():
    rng = np.random.default_rng(0)
    anchors = rng.uniform(0, 60, (50, 4)).astype(np.float32)
    anchors[:, 2:] = anchors[:, :2] + 8
    boxes = rng.uniform(0, 60, (50, 4)).astype(np.float32)
    boxes[:, 2:] = boxes[:, :2] + rng.uniform(5, 60, (50, 2))
    expected = []
    for anchor, box in zip(anchors, boxes, strict=True):
        x, y = (anchor[:2] + anchor[2:]) / 2
        sides = [x - box[0], box[2] - x, y - box[1], box[3] - y]
        if min(sides) <= 0:
            expected.append(0.0)
            continue
        ratio = (
            min(sides[:2]) / max(sides[:2]) * min(sides[2:]) / max(sides[2:])
        )
        expected.append(ratio**0.5)
    got = centerness(torch.from_numpy(anchors), torch.from_numpy(boxes))
    assert 0 < sum(e > 0 for e in expected) < 50
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_centerness_and_boxes_equal_release(golden):
    arrays = golden('proposals')
    anchors = xyxy(arrays['lrtb/anchors'])
    got = centerness(anchors, xyxy(arrays['lrtb/gt_boxes']))
    # Ratios of distances that are differences of coordinates.
    close(got, arrays['lrtb/centerness'], 1e-5)
    codes = torch.from_numpy(arrays['lrtb/codes'])
    decoded = build().bbox_coder.decode(anchors, lrtb_to_tblr(codes))
    close(decoded, xyxy(arrays['lrtb/decoded']), ROUNDING)
    assert torch.equal(lrtb_to_tblr(lrtb_to_tblr(codes)), codes)


def release_targets(arrays):
    """Thresholds and numbers of samples that a golden file was made with."""
    cfg = {k[4:]: float(v) for k, v in arrays.items() if k[:4] == 'cfg/'}
    return ConfigDict(
        assigner=assigner(
            cfg['center/match_threshold'], cfg['center/unmatched_threshold']
        ),
        bbox_assigner=assigner(
            cfg['box/match_threshold'], cfg['box/unmatched_threshold']
        ),
        sampler=dict(
            type='RandomSampler',
            num=int(cfg['center/batch_size']),
            pos_fraction=cfg['center/fg_fraction'],
            add_gt_as_proposals=False,
        ),
    )


@pytest.mark.parametrize('case', CASES)
def test_targets_equal_release(golden, case):
    arrays = golden('centerness_targets')
    head = DITORPNHead(8, 8, train_cfg=release_targets(arrays))
    numbers = levels(arrays, f'{case}/out/score_targets_')
    anchors = xyxy(arrays[f'{case}/out/anchors'])
    sizes = [
        arrays[f'{case}/out/score_targets_{i}'].shape[:2] for i in numbers
    ]
    close(
        torch.cat(head.prior_generator.grid_priors(sizes, device='cpu')),
        anchors,
        ROUNDING,
    )
    targets, inds, boxes = head.get_targets(
        anchors, instances(xyxy(arrays[f'{case}/in/gt_boxes']))
    )
    scores = np.concatenate(
        [arrays[f'{case}/out/score_targets_{i}'].ravel() for i in numbers]
    )
    sampled = (targets.numpy() >= 0) & (scores >= 0)
    assert (targets >= 0).sum() == (scores >= 0).sum()
    assert (targets > 0).sum() == (scores > 0).sum()
    np.testing.assert_allclose(
        targets.numpy()[sampled], scores[sampled], atol=1e-5
    )
    if arrays[f'{case}/out/sampling_is_deterministic']:
        np.testing.assert_allclose(targets, scores, atol=1e-5)
    expected = torch.cat(
        [
            xyxy(arrays[f'{case}/out/box_targets_{i}']).reshape(-1, 4)
            for i in numbers
        ]
    )
    dense = torch.zeros_like(expected)
    dense[inds] = boxes
    assert torch.equal(dense, expected)


def test_losses_equal_release(golden):
    arrays = golden('losses')
    head = build()
    numbers = levels(arrays, 'rpn_center/in/logits_')
    images = len(arrays[f'rpn_center/in/logits_{numbers[0]}'])
    samples = {
        k: images * int(arrays[f'{k}/cfg/batch_size_per_image'])
        for k in ('rpn_center', 'rpn_iou')
    }
    total = dict(rpn_center=0.0, rpn_iou=0.0)
    for level in numbers:
        logits = torch.from_numpy(
            arrays[f'rpn_center/in/logits_{level}']
        ).requires_grad_()
        target = torch.from_numpy(arrays[f'rpn_center/in/targets_{level}'])
        loss = head.loss_center(
            logits.sigmoid(),
            target,
            (target >= 0).float(),
            avg_factor=samples['rpn_center'],
        )
        loss.backward()
        close(loss, arrays[f'rpn_center/out/loss_{level}'], ROUNDING)
        close(logits.grad, arrays[f'rpn_center/out/grad_{level}'], ROUNDING)
        total['rpn_center'] += loss.item()
        boxes = torch.from_numpy(
            arrays[f'rpn_iou/in/boxes_{level}']
        ).requires_grad_()
        target = torch.from_numpy(arrays[f'rpn_iou/in/targets_{level}'])
        used = target.abs().sum(-1) > 0
        loss = head.loss_bbox(
            boxes[used], target[used], avg_factor=samples['rpn_iou']
        )
        loss.backward()
        close(loss, arrays[f'rpn_iou/out/loss_{level}'], ROUNDING)
        close(boxes.grad, arrays[f'rpn_iou/out/grad_{level}'], ROUNDING)
        total['rpn_iou'] += loss.item()
    for name, loss in total.items():
        assert loss == pytest.approx(float(arrays[f'{name}/out/loss']))


def predict(head, arrays, out, cfg):
    """Proposals of the stored maps of all levels."""
    numbers = levels(arrays, 'in/scores_')
    raw = '_raw' if out == 'out_raw' else ''
    return head.predict_by_feat(
        maps(arrays[f'in/scores_{i}'] for i in numbers),
        maps(arrays[f'in/boxes{raw}_{i}'] for i in numbers),
        # The release clips here to what it takes for the padded size.
        batch_img_metas=metas(
            *map(tuple, arrays['in/image_shape'].astype(int).tolist())
        ),
        cfg=ConfigDict(cfg),
    )


def close_proposals(arrays, key, results):
    """Compare with the release's, which are padded with rows of score 0."""
    side = arrays[f'{key}/rois'].max()
    for i, result in enumerate(results):
        scores, rois = arrays[f'{key}/scores'][i], arrays[f'{key}/rois'][i]
        real = scores > 0
        # The release also drops a box whose corners are all 0. It was among
        # the best here: one place fewer is left.
        result = result[result.bboxes.abs().sum(1) > 0][: real.sum()]
        scores, rois = scores[real], rois[real]
        assert len(result) >= 0.9 * len(rois)
        close_ranked(
            (result.scores, result.bboxes),
            (scores[: len(result)], xyxy(rois)[: len(result)]),
            ROUNDING,
            ROUNDING,
            side,
        )


@pytest.mark.parametrize('out, threshold, before, after', PASSES)
def test_proposals_equal_release(golden, out, threshold, before, after):
    arrays = golden('proposals')
    head = DITORPNHead(8, 8, box_border='input')
    # The release drops exact duplicates at a threshold of 1.
    iou = min(float(threshold), 1 - 1e-7)
    cfg = dict(
        nms_pre=int(before),
        nms=dict(type='nms', iou_threshold=iou),
        max_per_img=int(after),
    )
    close_proposals(
        arrays,
        f'{out}/nms{threshold}_pre{before}_post{after}',
        predict(head, arrays, out, cfg),
    )


def test_loss_by_feat_against_loop():
    head = build()
    sizes = [(32, 24), (16, 12), (8, 6), (4, 3)]
    logits = [torch.randn(2, 1, *s) for s in sizes]
    lrtb = [torch.rand(2, 4, *s) + 0.1 for s in sizes]
    gt = [
        instances(
            torch.tensor([[2.0, 3.0, 40.0, 30.0], [20.0, 8.0, 44.0, 60.0]])
        ),
        instances(torch.zeros(0, 4)),
    ]
    torch.manual_seed(1)
    losses = head.loss_by_feat(logits, lrtb, gt, metas((64, 48), (64, 48)))
    torch.manual_seed(1)
    anchors = torch.cat(head.prior_generator.grid_priors(sizes, device='cpu'))
    center = box = 0.0
    for i in range(2):
        targets, inds, boxes = head.get_targets(anchors, gt[i])
        score = torch.cat([x[i].flatten() for x in logits]).sigmoid()
        dist = torch.cat([x[i].flatten(1).T for x in lrtb])
        center += sum(
            abs(score[k] - targets[k])
            for k in range(len(anchors))
            if targets[k] >= 0
        )
        for k, target in zip(inds, boxes, strict=True):
            x, y = (anchors[k, :2] + anchors[k, 2:]) / 2
            w, h = anchors[k, 2:] - anchors[k, :2]
            le, r, t, b = dist[k]
            pred = [
                max(x - le * w, 0),
                max(y - t * h, 0),
                min(x + r * w, 48),
                min(y + b * h, 64),
            ]
            inter = max(
                min(pred[2], target[2]) - max(pred[0], target[0]), 0
            ) * max(min(pred[3], target[3]) - max(pred[1], target[1]), 0)
            union = (
                (pred[2] - pred[0]) * (pred[3] - pred[1])
                + (target[2:] - target[:2]).prod()
                - inter
            )
            box += 8 * (1 - inter / union)
    torch.testing.assert_close(losses['loss_rpn_center'], center / 512)
    torch.testing.assert_close(losses['loss_rpn_bbox'], box / 512)


@pytest.mark.parametrize('images', [1, 3])
def test_losses_are_over_256_samples_per_image_however_many_there_are(images):
    # 21 anchors: fewer than the 256 samples, which still divide the sums.
    head = build()
    sizes = [(4, 4), (2, 2), (1, 1), (1, 1)]
    logits = [torch.randn(images, 1, *s) for s in sizes]
    lrtb = [torch.rand(images, 4, *s) + 0.5 for s in sizes]
    gt = [
        instances(torch.tensor([[1.0, 0.0, 7.0, 8.0 - i]]))
        for i in range(images)
    ]
    losses = head.loss_by_feat(logits, lrtb, gt, metas(*[(8, 8)] * images))
    anchors = torch.cat(head.prior_generator.grid_priors(sizes, device='cpu'))
    center = box = 0.0
    for i in range(images):
        targets, inds, boxes = head.get_targets(anchors, gt[i])
        used = targets >= 0
        assert 0 < len(inds) < used.sum() <= len(anchors) < 256
        score = torch.cat([x[i].flatten() for x in logits]).sigmoid()
        center += (score - targets)[used].abs().sum()
        le, r, t, b = torch.cat([x[i].flatten(1) for x in lrtb], 1)[:, inds]
        x, y = (anchors[inds, :2] + anchors[inds, 2:]).T / 2
        w, h = (anchors[inds, 2:] - anchors[inds, :2]).T
        pred = torch.stack([x - le * w, y - t * h, x + r * w, y + b * h], 1)
        pred = pred.clamp(0, 8)
        inter = (
            (
                torch.minimum(pred[:, 2:], boxes[:, 2:])
                - torch.maximum(pred[:, :2], boxes[:, :2])
            )
            .clamp(0)
            .prod(1)
        )
        areas = sum((x[:, 2:] - x[:, :2]).prod(1) for x in (pred, boxes))
        box += 8 * (1 - inter / (areas - inter)).sum()
    close(losses['loss_rpn_center'], center / (256 * images))
    close(losses['loss_rpn_bbox'], box / (256 * images))


def test_every_parameter_learns_without_objects():
    head = build()
    head.init_weights()
    feats = [torch.randn(1, 8, s, s) for s in (16, 8, 4, 2)]
    losses = head.loss_by_feat(
        *head(feats), [instances(torch.zeros(0, 4))], metas((32, 32))
    )
    assert losses['loss_rpn_bbox'] == 0 and losses['loss_rpn_center'] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())


def test_objectness_is_the_first_output_of_forward():
    head = build()
    feats = [torch.randn(2, 8, s, s) for s in (16, 8, 4, 2)]
    logits = head.forward_objectness(feats)
    for got, expected in zip(logits, head(feats)[0], strict=True):
        assert got.shape[1] == 1 and torch.equal(got, expected)
    sum(x.sum() for x in logits).backward()
    assert head.rpn_reg.weight.grad is None
    assert all(p.grad is not None for p in head.rpn_norms.parameters())


def test_maps_of_one_place():
    head = build()
    cfg = ConfigDict(nms_pre=10, nms=None, max_per_img=10, min_bbox_size=-1)
    feats = [torch.randn(1, 8, 1, 1) for _ in range(4)]
    (result,) = head.predict_by_feat(
        *head(feats), batch_img_metas=metas((2, 2)), cfg=cfg
    )
    assert len(result) == 4 and result.bboxes.shape == (4, 4)
    assert (result.scores.diff() <= 0).all()


def test_empty_and_inverted_boxes_can_be_dropped():
    head = build()
    cfg = dict(nms_pre=100, nms=None, max_per_img=100)
    sizes = [(8, 8), (4, 4), (2, 2), (1, 1)]
    logits = [torch.randn(1, 1, *s) for s in sizes]
    lrtb = [torch.full((1, 4, *s), -0.1) for s in sizes]
    args = dict(batch_img_metas=metas((16, 16)))
    (kept,) = head.predict_by_feat(
        logits, lrtb, cfg=ConfigDict(min_bbox_size=-1, **cfg), **args
    )
    (none,) = head.predict_by_feat(
        logits, lrtb, cfg=ConfigDict(min_bbox_size=0, **cfg), **args
    )
    assert len(kept) == 85 and len(none) == 0
    assert none.bboxes.shape == (0, 4) and none.labels.dtype == torch.long


def test_border_of_boxes():
    lrtb = [
        torch.full((1, 4, *s), 9.0) for s in ((8, 8), (4, 4), (2, 2), (1, 1))
    ]
    logits = [x[:, :1] for x in lrtb]
    meta = [dict(img_shape=(10, 12), batch_input_shape=(16, 16))]
    cfg = ConfigDict(nms_pre=100, nms=None, max_per_img=1)
    for border, expected in (
        ('image', [0, 0, 12, 10]),
        ('input', [0, 0, 15, 15]),
    ):
        (result,) = build(box_border=border).predict_by_feat(
            logits, lrtb, batch_img_metas=meta, cfg=cfg
        )
        assert result.bboxes.tolist() == [expected]


def test_rescale_gives_original_pixels():
    head = build()
    feats = [torch.randn(1, 8, s, s) for s in (16, 8, 4, 2)]
    cfg = ConfigDict(nms_pre=10, nms=None, max_per_img=5, min_bbox_size=-1)
    meta = dict(metas((32, 32))[0], scale_factor=(0.5, 2.0))
    args = (*head(feats), None, [meta], cfg)
    (plain,) = head.predict_by_feat(*args)
    (scaled,) = head.predict_by_feat(*args, rescale=True)
    torch.testing.assert_close(
        scaled.bboxes * torch.tensor([0.5, 2, 0.5, 2]), plain.bboxes
    )


def test_outputs_stay_float32_under_autocast():
    head = build()
    feats = [torch.randn(1, 8, s, s) for s in (16, 8, 4, 2)]
    with torch.autocast('cpu', torch.bfloat16):
        logits, lrtb = head(feats)
    assert {x.dtype for x in logits + lrtb} == {torch.float32}


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="box_border is 'page'"):
        build(box_border='page')
    with pytest.raises(ValueError, match='4 levels'):
        build(num_levels=3)
    with pytest.raises(ValueError, match='built for 4 maps, got 1'):
        build()([torch.zeros(1, 8, 4, 4)])


@pytest.mark.parametrize(
    'out, threshold, before, after', [p for p in PASSES if float(p[1]) == 1]
)
def test_proposals_of_inference_equal_release_one_by_one(
    golden, out, threshold, before, after
):
    arrays = golden('proposals')
    head = DITORPNHead(8, 8, box_border='input')
    results = predict(
        head,
        arrays,
        out,
        dict(
            nms_pre=int(before),
            nms=None,
            drop_duplicates=True,
            max_per_img=int(after),
            min_bbox_size=-1,
        ),
    )
    key = f'{out}/nms{threshold}_pre{before}_post{after}'
    assert [len(result) for result in results] == (
        arrays[f'{key}/scores'] > 0
    ).sum(axis=1).tolist()
    close_proposals(arrays, key, results)


def test_distinct_against_loop():
    boxes = torch.randint(0, 3, (200, 4)).float()
    levels = torch.randint(0, 2, (200,))
    expected = []
    for i in range(200):
        whole = bool((boxes[i, 2:] > boxes[i, :2]).all())
        repeated = any(
            levels[j] == levels[i] and torch.equal(boxes[j], boxes[i])
            for j in range(i)
        )
        if boxes[i].any() and not (whole and repeated):
            expected.append(i)
    assert 0 < len(expected) < 200
    assert distinct(boxes, levels).tolist() == expected
    assert distinct(boxes[:0], levels[:0]).tolist() == []


def test_nms_of_levels_is_that_of_mmcv() -> None:
    corners = torch.rand(400, 2) * 40
    boxes = torch.cat([corners, corners + torch.rand(400, 2) * 30], 1)
    scores, levels = torch.rand(400), torch.arange(400) % 4
    cfg = dict(type='nms', iou_threshold=0.5)
    kept = level_nms(boxes, scores, levels, cfg)
    assert 4 < len(kept) < 390
    expected = batched_nms(boxes, scores, levels, ConfigDict(cfg))[1]
    assert torch.equal(kept, expected)
