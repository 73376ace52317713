# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Box head: golden losses, vocabularies of any size, edge cases."""

import math

import numpy as np
import pytest
import torch
from golden_arrays import ROUNDING, close
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from tiny_detector import bbox_head, vocabulary

TEST_CFG = ConfigDict(
    score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20
)


def build(num_classes=None, **kwargs):
    head = MODELS.build(bbox_head(**kwargs))
    if num_classes:
        head.set_vocabulary(vocabulary(num_classes))
    return head


def feats(num):
    return torch.randn(num, 8, 7, 7)


def background_last(labels, num):
    """The release's background is class 0."""
    return torch.where(labels == 0, num, labels - 1)


def test_losses_equal_release(golden):
    arrays = {k: torch.from_numpy(v) for k, v in golden('losses').items()}
    logits = arrays['frcnn_class/in/logits'].flatten(0, 1).requires_grad_()
    num = logits.shape[1] - 1
    labels = background_last(
        arrays['frcnn_class/in/targets'].flatten().long(), num
    )
    codes = arrays['frcnn_box/in/boxes'].flatten(0, 1).requires_grad_()
    targets = arrays['frcnn_box/in/box_targets'].flatten(0, 1)
    box_labels = background_last(
        arrays['frcnn_box/in/class_targets'].flatten().long(), num
    )
    last = [*range(1, num + 1), 0]
    usual = float(arrays['frcnn_class/cfg/background_weight'])
    for weight, key in ((usual, 'loss'), (1.0, 'loss_weight_1')):
        head = build(num, background_weight=weight)
        loss = head.loss(logits[:, last], codes, labels, targets)['loss_cls']
        close(loss, arrays[f'frcnn_class/out/{key}'], ROUNDING)
        if key == 'loss':
            loss.backward()
    close(logits.grad, arrays['frcnn_class/out/grad'].flatten(0, 1), ROUNDING)
    loss = head.loss(logits[:, last], codes, box_labels, targets)['loss_bbox']
    close(loss, arrays['frcnn_box/out/loss'], ROUNDING)
    loss.backward()
    close(codes.grad, arrays['frcnn_box/out/grad'].flatten(0, 1), ROUNDING)
    nothing = torch.full_like(box_labels, num)
    loss = head.loss(logits[:, last], codes, nothing, targets)['loss_bbox']
    assert loss == arrays['frcnn_box/out/loss_all_background']


def test_logits_are_cosines_over_the_temperature():
    head = build(3)
    with torch.no_grad():
        head.temperature_scale.fill_(1.5)
    text, x = head.classifier(), feats(2)
    logits, embeds = head(x)[0], head.embed(x)
    for i in range(2):
        for k in range(4):
            cosine = embeds[i] @ text[k] / embeds[i].norm() / text[k].norm()
            assert logits[i, k].item() == pytest.approx(
                cosine.item() / 0.015, abs=1e-3
            )


@pytest.mark.parametrize('num', [1, 3, 1203])
def test_any_number_of_classes(num):
    head = build(num)
    assert head.num_classes == num
    logits, deltas = head(feats(5))
    assert logits.shape == (5, num + 1) and deltas.shape == (5, 4)
    labels = torch.tensor([0, num - 1, num, num, num])
    losses = head.loss(logits, deltas, labels, torch.randn(5, 4))
    assert all(torch.isfinite(x).all() for x in losses.values())


def test_vocabulary_is_not_in_the_state_dict():
    head, other = build(3), build(1203)
    assert not any(
        k in head.state_dict() for k in ('text', 'background', 'novel')
    )
    other.load_state_dict(head.state_dict())
    x = feats(2)
    torch.testing.assert_close(other.embed(x), head.embed(x))


def test_permuted_vocabulary_permutes_scores():
    head, names = build(), vocabulary(5, novel=[1])
    x, order = feats(3), [4, 2, 0, 1, 3]
    head.set_vocabulary(names)
    logits, deltas = head(x)
    head.set_vocabulary(names.subset([f'c{i}' for i in order]))
    assert head.novel.tolist() == [i == 1 for i in order]
    permuted, same = head(x)
    torch.testing.assert_close(permuted, logits[:, [*order, 5]])
    assert torch.equal(same, deltas)


def test_targets_follow_the_vocabulary():
    head = build(4)
    gt = torch.tensor([[10.0, 10.0, 30.0, 40.0]])
    priors = torch.tensor([[12.0, 9.0, 31.0, 42.0], [50.0, 50.0, 60.0, 60.0]])
    result = SamplingResult.__new__(SamplingResult)
    result.pos_priors, result.neg_priors = priors[:1], priors[1:]
    result.pos_gt_bboxes, result.pos_gt_labels = gt, torch.tensor([2])
    labels, deltas = head._get_targets([result])
    assert labels.tolist() == [2, 4]
    expected = [
        (20 - 21.5) / 19 / 0.1,
        (25 - 25.5) / 33 / 0.1,
        math.log(20 / 19) / 0.2,
        math.log(30 / 33) / 0.2,
    ]
    np.testing.assert_allclose(deltas[0], expected, rtol=1e-5)
    assert not deltas[1].any()


@pytest.mark.parametrize('num', [0, 3])
def test_without_foreground_all_parameters_get_a_gradient(num):
    head = build(2)
    logits, deltas = head(feats(num))
    labels = torch.full((num,), 2)
    losses = head.loss(logits, deltas, labels, torch.zeros(num, 4))
    assert losses['loss_bbox'] == 0
    (losses['loss_cls'] + losses['loss_bbox']).backward()
    assert all(p.grad is not None for p in head.parameters())


def test_predictions_and_empty_images():
    head = build(3)
    rois = torch.rand(6, 5) * 20
    rois[:, 3:] += 20
    scores = torch.rand(6, 4)
    meta = dict(img_shape=(40, 40), scale_factor=(0.5, 2.0))
    empty = torch.zeros(0, 5)
    args = (
        (rois, empty),
        (scores, scores[:0]),
        (torch.randn(6, 4), torch.zeros(0, 4)),
        [meta, meta],
    )
    full, none = head.predict_by_feat(*args, TEST_CFG)
    assert len(full) > 0 and len(none) == 0
    assert full.labels.max() < 3 and full.bboxes.max() <= 40
    scaled, _ = head.predict_by_feat(*args, TEST_CFG, rescale=True)
    torch.testing.assert_close(
        scaled.bboxes * torch.tensor([0.5, 2, 0.5, 2]), full.bboxes
    )
    raw, none = head.predict_by_feat(*args, None)
    assert raw.scores.shape == (6, 4) and none.scores.shape == (0, 4)


def test_errors_say_what_is_wrong():
    head = build()
    with pytest.raises(ValueError, match='No vocabulary is set'):
        head(feats(1))
    names = vocabulary(2)
    with pytest.raises(ValueError, match=r'needs \(classes > 0, 8\)'):
        build(embed_dims=8).set_vocabulary(names)
    head.set_vocabulary(names)
    cfg = ConfigDict(TEST_CFG, nms=dict(type='soft_nms', iou_threshold=0.5))
    meta = dict(img_shape=(40, 40))
    with pytest.raises(ValueError, match="'soft_nms'"):
        head.predict_by_feat(
            (torch.rand(1, 5),),
            (torch.rand(1, 3),),
            (torch.rand(1, 4),),
            [meta],
            cfg,
        )
