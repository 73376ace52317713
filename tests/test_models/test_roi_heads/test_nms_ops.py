# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Class-wise NMS: a loop, MMDetection's function and golden numbers."""

import pytest
import torch
from golden_arrays import (
    NETWORK,
    ROUNDING,
    XYXY,
    close_ranked,
    golden_cases,
)
from mmdet.models.layers import multiclass_nms
from mmdet.registry import TASK_UTILS
from torchvision.ops import nms

from dito.models import topk_class_nms


def random_boxes(num, size=100.0):
    corner = torch.rand(num, 2) * size
    return torch.cat([corner, corner + torch.rand(num, 2) * size + 1], 1)


def iou(a, b):
    inter = (torch.min(a[2:], b[2:]) - torch.max(a[:2], b[:2])).clamp(0)
    areas = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()
    return inter.prod() / (areas - inter.prod())


def loop_nms(boxes, scores, score_thr, iou_thr, max_num):
    kept = []
    for label in range(scores.shape[1]):
        mine = []
        for i in scores[:, label].argsort(descending=True).tolist():
            if scores[i, label] > score_thr and all(
                iou(boxes[i], boxes[j]) <= iou_thr for j in mine
            ):
                mine.append(i)
        kept += [(scores[i, label].item(), label, i) for i in mine]
    return sorted(kept, reverse=True)[:max_num]


@pytest.mark.parametrize('topk', [3, 10, 4000])
@pytest.mark.parametrize('score_thr', [0.0, 0.6])
def test_against_loop(topk, score_thr):
    boxes, scores = random_boxes(25), torch.rand(25, 4)
    expected = loop_nms(boxes, scores, score_thr, 0.4, 30)
    got = topk_class_nms(boxes, scores, score_thr, 0.4, 30, topk=topk)
    for k, (score, label, i) in enumerate(expected):
        assert got[1][k] == score and got[2][k] == label and got[3][k] == i
        assert torch.equal(got[0][k], boxes[i])
    assert len(got[0]) == len(expected)


def test_equals_mmdet_on_many_classes():
    boxes, scores = random_boxes(60, 900.0), torch.rand(60, 1203) ** 8
    padded = torch.cat([scores, scores.new_zeros(60, 1)], 1)
    nms = dict(type='nms', iou_threshold=0.5)
    dets, labels = multiclass_nms(boxes, padded, 1e-4, nms, 300)
    got = topk_class_nms(boxes, scores, 1e-4, 0.5, 300)
    torch.testing.assert_close(got[1], dets[:, 4])
    assert torch.equal(got[0], dets[:, :4])
    assert torch.equal(got[2], labels)


@pytest.mark.parametrize('label', [0, 1202, 20000])
def test_the_last_class_is_as_exact_as_the_first(label):
    # Small boxes far from the origin, with overlaps around the threshold:
    # moved by a million pixels in float32 they lose an eighth of a pixel.
    corner = torch.rand(40, 2).repeat(8, 1) * 1000
    corner = corner + torch.rand(320, 2) * 4 - 2
    boxes = torch.cat([corner, corner + 6 + torch.rand(320, 2) * 4], 1)
    scores = torch.zeros(320, label + 1)
    scores[:, label] = torch.rand(320)
    scores[:, 0] += torch.rand(320) * 0.1
    got = topk_class_nms(boxes, scores, 0.2, 0.5, 320)
    keep = nms(boxes.double(), scores[:, label].double(), 0.5)
    keep = keep[scores[keep, label] > 0.2]
    assert 40 < len(keep) < 250
    assert got[3].tolist() == keep.tolist()
    assert torch.equal(got[0], boxes[keep]) and (got[2] == label).all()


def test_negative_coordinates_keep_classes_apart():
    boxes = random_boxes(40, 60.0) - 120
    scores = torch.rand(40, 5)
    expected = loop_nms(boxes, scores, 0.1, 0.5, 200)
    got = topk_class_nms(boxes, scores, 0.1, 0.5, 200)
    assert [i for _, _, i in expected] == got[3].tolist()
    assert [k for _, k, _ in expected] == got[2].tolist()


def test_boxes_of_two_classes_do_not_suppress_each_other():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.01]])
    scores = torch.tensor([[0.9, 0.8], [0.7, 0.6]])
    _, kept, labels, inds = topk_class_nms(boxes, scores, 0.0, 0.5, 10)
    assert kept.tolist() == pytest.approx([0.9, 0.8])
    assert labels.tolist() == [0, 1] and inds.tolist() == [0, 0]


@pytest.mark.parametrize('shape', [(0, 3), (4, 3)])
def test_nothing_above_the_threshold(shape):
    got = topk_class_nms(
        random_boxes(shape[0]), torch.zeros(shape), 0.0, 0.5, 10
    )
    assert [len(x) for x in got] == [0, 0, 0, 0]
    assert got[0].shape == (0, 4) and got[2].dtype == torch.long


@pytest.mark.parametrize('topk', [4, 4000])
@pytest.mark.parametrize(
    'num', golden_cases('detections', r'out/post(\d+)/num_detections')
)
def test_detections_equal_release(golden, num, topk):
    arrays = golden('detections')
    coder = TASK_UTILS.build(dict(type='DITOPlusOneBBoxCoder'))
    score_thr, iou_thr = (
        float(arrays[f'cfg/{k}_threshold']) for k in ('score', 'nms')
    )
    for i, (size,) in enumerate(arrays['in/image_shape']):
        rois, codes = (
            torch.from_numpy(arrays[key][i][:, XYXY])
            for key in ('in/rois', 'in/box_outputs')
        )
        decoded = coder.decode(rois, codes, size)
        scores = torch.from_numpy(arrays['in/class_scores'][i])[:, 1:]
        boxes, kept, labels, _ = topk_class_nms(
            decoded, scores, score_thr, iou_thr, int(num), topk=topk
        )
        count = int(arrays[f'out/post{num}/num_detections'][i])
        expected = [
            arrays[f'out/post{num}/detection_{name}'][i][:count]
            for name in ('scores', 'boxes', 'classes')
        ]
        close_ranked(
            (kept, boxes[:, XYXY], labels + 1),
            expected,
            ROUNDING,
            NETWORK,
            size.max(),
        )
