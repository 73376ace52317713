# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The whole detector, built from the shipped config, against the release."""

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from official_detector import build_official, group, images, samples

from dito.utils.official import convert_official

XYXY = [1, 0, 3, 2]  # (y1, x1, y2, x2), and (dy, dx, dh, dw)
LAST = [1, 2, 3, 4, 5, 6, 0]  # background first there, last here
LEVELS = (2, 3, 4, 5)


@pytest.fixture(scope='module')
def arrays():
    from conftest import DATA
    with np.load(DATA / 'golden' / 'detector_end_to_end.npz') as file:
        return dict(file)


@pytest.fixture(scope='module')
def model(arrays):
    return build_official(arrays)


@pytest.fixture(scope='module')
def maps(arrays, model):
    torch.set_num_threads(1)
    with torch.no_grad():
        pyramid, feat = model.extract_maps(images(arrays))
        return pyramid, feat, model.vlm_map(images(arrays), feat)


def close(got, expected, atol):
    if isinstance(got, torch.Tensor):
        got = got.detach().numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def channels_last(x):
    return x.permute(0, 2, 3, 1)


def golden_proposals(arrays, rois='mid/rois'):
    return [
        InstanceData(
            bboxes=torch.from_numpy(arrays[rois][i][:, XYXY]),
            scores=torch.from_numpy(arrays['mid/roi_scores'][i]))
        for i in range(2)
    ]


def test_backbones(arrays, maps):
    close(channels_last(maps[1]), arrays['mid/vision_features_4'], 1e-5)
    close(channels_last(maps[2]), arrays['mid/frozen_features_4'], 1e-5)


@torch.no_grad()
def test_proposals(arrays, model, maps):
    logits, boxes = model.rpn_head(maps[0])
    for i, logit, box in zip(LEVELS, logits, boxes, strict=True):
        close(channels_last(logit), arrays[f'mid/rpn_logits_{i}'], 1e-5)
        close(channels_last(box), arrays[f'mid/rpn_lrtb_{i}'], 1e-5)
    for i, got in enumerate(model.rpn_head.predict(maps[0], samples())):
        close(got.bboxes[:, XYXY], arrays['mid/rois'][i], 1e-4)
        close(got.scores, arrays['mid/roi_scores'][i], 1e-6)


@torch.no_grad()
def test_regions(arrays, model, maps):
    head = model.roi_head
    rois = bbox2roi([p.bboxes for p in golden_proposals(arrays)])
    crops = head.bbox_roi_extractor(maps[0], rois)
    close(head.bbox_head.embed(crops),
          arrays['mid/box_features'].reshape(-1, 32), 1e-4)
    close(head.bbox_head(crops)[1],
          arrays['out/box_outputs'].reshape(-1, 4)[:, XYXY], 1e-5)
    metas = [s.metainfo for s in samples()]
    close(head.vlm_embed(maps[2], rois, metas),
          arrays['mid/vlm_roi_features'].reshape(-1, 32), 1e-5)


@pytest.mark.parametrize('indicator', [False, True])
@torch.no_grad()
def test_class_scores(arrays, maps, indicator):
    model = build_official(arrays, indicator)
    got = model.roi_head.predict_bbox(
        maps[0], [s.metainfo for s in samples()], golden_proposals(arrays),
        rcnn_test_cfg=None, vlm_feat=maps[2])
    key = ('with_indicator/' if indicator else '') + 'out/class_scores'
    for i in range(2):
        close(got[i].scores, arrays[key][i][:, LAST], 1e-5)


@pytest.mark.parametrize('scale', [1.0, 0.512])
@pytest.mark.parametrize('indicator', [False, True])
@torch.no_grad()
def test_detections(arrays, indicator, scale):
    model = build_official(arrays, indicator)
    results = model.predict(images(arrays), samples(scale), rescale=True)
    key = ('with_indicator/' if indicator else '') + 'out/detection'
    for i in range(2):
        got = results[i].pred_instances
        close(got.scores, arrays[f'{key}_scores'][i], 1e-5)
        assert (got.labels.numpy() + 1 == arrays[f'{key}_classes'][i]).all()
        close(got.bboxes[:, XYXY] * scale, arrays[f'{key}_boxes'][i], 1e-4)


@torch.no_grad()
def test_masks_of_the_detections(arrays, model, maps):
    boxes = torch.from_numpy(arrays['out/detection_boxes'][:, :6][..., XYXY])
    head = model.roi_head
    logits = head.mask_head(
        head.mask_roi_extractor(maps[0], bbox2roi(list(boxes))))
    # The stored masks keep 4 mantissa bits.
    np.testing.assert_allclose(
        logits.sigmoid().view(2, 6, 28, 28),
        arrays['out/detection_masks_first6'], rtol=0.04, atol=1e-6)


def golden_loss(arrays, model):
    """Losses of the training pass with the stored targets, and logits."""
    pyramid, _ = model.extract_maps(images(arrays))
    level = [
        (torch.from_numpy(arrays[f'train/in/rpn_score_targets_{i}']),
         torch.from_numpy(arrays[f'train/in/rpn_box_targets_{i}']))
        for i in LEVELS
    ]
    turn = iter(range(2))

    def targets(anchors, gt_instances):
        i = next(turn)
        score = torch.cat([s[i].flatten() for s, _ in level])
        box = torch.cat([b[i].reshape(-1, 4) for _, b in level])[:, XYXY]
        inds = box.any(dim=1).nonzero(as_tuple=True)[0]
        return score, inds, box[inds]

    rpn, head = model.rpn_head, model.roi_head
    rpn.get_targets, rpn.sampler = targets, InstanceDataNum(256)
    losses = rpn.loss_by_feat(
        *rpn(pyramid), [None, None], [s.metainfo for s in samples()])
    rois = torch.from_numpy(arrays['train/in/sampled_rois'][..., XYXY])
    gt = torch.from_numpy(arrays['train/in/sampled_gt_boxes'][..., XYXY])
    labels = torch.from_numpy(arrays['train/in/sampled_classes']).long()
    labels = torch.where(labels == 0, 6, labels - 1).flatten()
    codes = head.bbox_head.bbox_coder.encode(
        rois.flatten(0, 1), gt.flatten(0, 1)) * (labels < 6)[:, None]
    logits, deltas = head.bbox_head(
        head.bbox_roi_extractor(pyramid, bbox2roi(list(rois))))
    losses.update(head.bbox_head.loss(logits, deltas, labels, codes))
    return losses, logits, deltas, codes


class InstanceDataNum:
    """Stands for the sampler: number of samples of an image."""

    def __init__(self, num):
        self.num = num


def test_training(arrays):
    model = build_official(arrays)
    losses, logits, deltas, codes = golden_loss(arrays, model)
    # Cosines; the logits are 80 times as large.
    close(logits * 0.0125,
          arrays['train/out/class_logits'].reshape(-1, 7)[:, LAST] * 0.0125,
          1e-5)
    close(deltas, arrays['train/out/box_outputs'].reshape(-1, 4)[:, XYXY],
          1e-5)
    close(codes, arrays['train/out/box_targets'].reshape(-1, 4)[:, XYXY],
          1e-4)
    names = dict(loss_rpn_center='rpn_score_loss',
                 loss_rpn_bbox='rpn_box_loss',
                 loss_cls='fast_rcnn_class_loss',
                 loss_bbox='fast_rcnn_box_loss')
    for ours, theirs in names.items():
        close(losses[ours], arrays[f'train/out/{theirs}'], 2e-5)
    total = sum(losses[k] for k in names)
    close(total, arrays['train/out/total_loss'], 2e-5)
    total.backward()
    check_gradients(arrays, model)


def check_gradients(arrays, model):
    """Compare the norm of every parameter's gradient, and a few whole."""
    params = group(arrays, 'params/')
    # Conversion only moves numbers: number the arrays to see where each goes.
    paths = sorted(params)
    moved = convert_official(
        {p: np.full_like(params[p], i) for i, p in enumerate(paths)})
    squares = np.zeros(len(paths))
    for name, param in model.named_parameters():
        if param.grad is not None:
            inds = moved[name].long().flatten()
            squares += torch.zeros(len(paths), dtype=torch.float64).index_add(
                0, inds, param.grad.flatten().double()**2).numpy()
    norms = group(arrays, 'train/grad_norm/')
    assert len(norms) > 100
    for path, norm in norms.items():
        got = squares[paths.index(path)]**0.5
        assert got == pytest.approx(norm, rel=2e-4, abs=2e-5), path
    whole = group(arrays, 'train/grad/')
    converted = convert_official({**params, **whole})
    for name, param in model.named_parameters():
        inds = moved[name].long()
        for path in whole:
            mine = inds == paths.index(path)
            if mine.any():
                # Relative to the gradient's largest entry.
                size = float(np.abs(whole[path]).max())
                close(param.grad[mine] / size, converted[name][mine] / size,
                      1e-4)


def test_frozen_backbone_takes_no_gradient(arrays):
    model = build_official(arrays)
    model.train()
    assert not model.vlm_backbone.training
    assert not any(p.requires_grad for p in model.vlm_backbone.parameters())
    assert model.backbone.training
