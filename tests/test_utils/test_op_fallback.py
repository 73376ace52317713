# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of mmcv's operators on torchvision, against plain loops."""

import itertools
import math
import subprocess
import sys

import pytest
import torch
from mmcv.ops import RoIAlign, batched_nms, nms, roi_align
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from torch import Tensor

from dito.utils.compat import TorchvisionExt

EXT = sys.modules['mmcv._ext']
pytestmark = pytest.mark.skipif(
    not isinstance(EXT, TorchvisionExt),
    reason='mmcv has its compiled operators here',
)


def _iou(a: list[float], b: list[float], offset: int) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    inter = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    return inter / (sum(areas) - inter)


def loop_nms(
    boxes: Tensor, scores: Tensor, threshold: float, offset: int
) -> list[int]:
    """Keep a box if no better kept one overlaps it; ties by index."""
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i].item(), i))
    kept: list[int] = []
    for i in order:
        if all(
            _iou(boxes[i].tolist(), boxes[j].tolist(), offset) <= threshold
            for j in kept
        ):
            kept.append(i)
    return kept


def _bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """Value (C, ) of an image (C, H, W) at a point; 0 beyond its rim."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(len(image))
    y, x = max(y, 0), max(x, 0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = min(y, height - 1) - top, min(x, width - 1) - left
    return (
        (1 - dy) * (1 - dx) * image[:, top, left]
        + (1 - dy) * dx * image[:, top, right]
        + dy * (1 - dx) * image[:, bottom, left]
        + dy * dx * image[:, bottom, right]
    )


def loop_roi_align(
    feats: Tensor,
    rois: Tensor,
    size: int,
    scale: float,
    ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign (K, C, size, size) by its definition, differentiable."""
    shift = 0.5 if aligned else 0.0
    least = 0.0 if aligned else 1.0
    pooled = []
    for image, *box in rois.tolist():
        x1, y1, x2, y2 = (value * scale - shift for value in box)
        height, width = max(y2 - y1, least), max(x2 - x1, least)
        rows = ratio or math.ceil(height / size)
        columns = ratio or math.ceil(width / size)
        cells = []
        for i, j in itertools.product(range(size), range(size)):
            samples = [
                _bilinear(
                    feats[int(image)],
                    y1 + (i + (a + 0.5) / rows) * height / size,
                    x1 + (j + (b + 0.5) / columns) * width / size,
                )
                for a, b in itertools.product(range(rows), range(columns))
            ]
            cells.append(torch.stack(samples).mean(0))
        pooled.append(torch.stack(cells, 1).reshape(-1, size, size))
    return torch.stack(pooled)


@pytest.mark.parametrize('offset', [0, 1])
def test_nms_against_loop(offset: int) -> None:
    corner = torch.rand(60, 2) * 40
    boxes = torch.cat([corner, corner + 4 + torch.rand(60, 2) * 20], 1)
    scores = torch.rand(60)
    for threshold in (0.1, 0.5, 0.9):
        found, index = nms(boxes, scores, threshold, offset)
        wanted = loop_nms(boxes, scores, threshold, offset)
        assert index.tolist() == wanted
        assert 1 < len(wanted) <= 60
        torch.testing.assert_close(found[:, :4], boxes[wanted])
        torch.testing.assert_close(found[:, 4], scores[wanted])


def test_offset_matters_for_small_boxes() -> None:
    # 2 x 2 pixels apart by one: IoU 1/3 with offset 0, 1/2 with offset 1.
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2]])
    scores = torch.tensor([0.9, 0.8])
    for offset in (0, 1):
        wanted = loop_nms(boxes, scores, 0.4, offset)
        assert nms(boxes, scores, 0.4, offset)[1].tolist() == wanted
        assert len(wanted) == (2 if offset == 0 else 1)


def test_nms_ties_and_identical_boxes() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 10], [30, 30, 40, 40], [1, 0, 10, 10]]
    )
    scores = torch.full((4,), 0.5)
    assert sorted(nms(boxes, scores, 0.5)[1].tolist()) == [0, 2]


def test_nms_of_nothing_and_by_class() -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].shape == (0,)
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    scores = torch.tensor([0.3, 0.9, 0.5])
    kept = batched_nms(
        boxes,
        scores,
        torch.tensor([0, 1, 1]),
        dict(type='nms', iou_threshold=0.5),
    )[1]
    assert sorted(kept.tolist()) == [0, 1]


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 1, 2])
@pytest.mark.parametrize('scale', [1.0, 0.25])
def test_roi_align_against_loop(
    aligned: bool, ratio: int, scale: float
) -> None:
    feats = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    rois = torch.tensor(
        [
            [0, 1.3, 2.1, 7.7, 6.2],
            [1, -3, -2, 4, 5],
            [1, 5, 5, 5.2, 5.3],
            [0, 8, 6, 16, 13],
        ],
        dtype=torch.float64,
    )
    rois[:, 1:] /= scale
    mine, theirs = (feats.clone().requires_grad_() for _ in range(2))
    found = roi_align(mine, rois, 3, scale, ratio, 'avg', aligned)
    wanted = loop_roi_align(theirs, rois, 3, scale, ratio, aligned)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn_like(wanted)
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_roi_align_of_nothing_has_a_gradient() -> None:
    feats = torch.randn(1, 2, 5, 5, requires_grad=True)
    pooled = RoIAlign(3)(feats, torch.zeros(0, 5))
    assert pooled.shape == (0, 2, 3, 3)
    pooled.sum().backward()
    assert feats.grad.abs().sum() == 0


def test_what_is_missing_says_so() -> None:
    feats, rois = torch.randn(1, 2, 5, 5), torch.tensor([[0.0, 0, 0, 3, 3]])
    with pytest.raises(NotImplementedError, match='pool_mode="max"'):
        roi_align(feats, rois, 2, 1.0, 1, 'max')
    with pytest.raises(NotImplementedError, match='"carafe_forward"'):
        EXT.carafe_forward(feats)
    with pytest.raises(AttributeError):
        _ = EXT.__wrapped__


def test_mask_rcnn_trains_and_predicts() -> None:
    init_default_scope('mmdet')
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py').model
    cfg.backbone.update(depth=18, base_channels=8, init_cfg=None)
    cfg.backbone.frozen_stages = -1
    cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    for part in ('bbox', 'mask'):
        cfg.roi_head[f'{part}_roi_extractor'].out_channels = 16
        cfg.roi_head[f'{part}_head'].update(in_channels=16, num_classes=3)
    cfg.roi_head.bbox_head.fc_out_channels = 16
    cfg.roi_head.mask_head.update(num_convs=1, conv_out_channels=16)
    model = MODELS.build(cfg)
    batch = demo_mm_inputs(
        2,
        [(3, 64, 64), (3, 48, 64)],
        num_items=[2, 1],
        num_classes=3,
        with_mask=True,
    )
    batch = model.data_preprocessor(batch, True)
    before = model.backbone.conv1.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss) and loss > 0
    assert (model.backbone.conv1.weight != before).any()
    model.eval()
    model.test_cfg.rcnn.score_thr = 0.0
    with torch.no_grad():
        results = model(**batch, mode='predict')
    assert results[0].pred_instances.masks.shape[1:] == (64, 64)
    assert len(results[0].pred_instances) > 0


def run_python(*args: str) -> 'subprocess.CompletedProcess[str]':
    """Run a fresh interpreter."""
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=600
    )


def test_fresh_interpreter() -> None:
    code = (
        'import sys, dito, mmdet.models; '
        'print("stands in:", type(sys.modules["mmcv._ext"]).__name__)'
    )
    done = run_python('-c', code)
    assert done.returncode == 0, done.stderr
    assert 'stands in: TorchvisionExt' in done.stdout
