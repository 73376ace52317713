# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Drawing of masks one at a time, on pictures of bounded size."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from dito.models.roi_heads.box_masks import paste_masks
from dito.visualization import DITOLocalVisualizer
from dito.visualization.drawing import draw_objects
from dito.visualization.objects import ShownObject

# Of a size that is drawn as it is.
SHAPE = (480, 640)
BOXES = torch.tensor(
    [[40.0, 48, 280, 240], [200, 160, 600, 460], [20, 360, 20, 360]]
)


def sample(form: str) -> DetDataSample:
    """Three detections whose masks have one of the forms."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 1, 4, 4, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, (28, 28), mode='bilinear')[
        :, 0
    ]
    found: dict[str, Any] = dict(
        bboxes=BOXES.clone(),
        labels=torch.tensor([0, 1, 1]),
        scores=torch.tensor([0.9, 0.8, 0.7]),
    )
    if form == 'box':
        found['box_masks'] = masks
    elif form != 'none':
        pasted = paste_masks(masks, BOXES, SHAPE)
        found['masks'] = dict(rle=pasted, dense=pasted.to_tensor())[form]
    result = DetDataSample(metainfo=dict(ori_shape=SHAPE))
    result.pred_instances = InstanceData(metainfo=dict(mask_thr=0.5), **found)
    return result


def draw(
    form: str,
    result: DetDataSample | None = None,
    size: tuple = SHAPE,
    **kwargs: Any,
) -> np.ndarray:
    """The picture of a sample; 'b' is novel."""
    visualizer = DITOLocalVisualizer(**kwargs)
    visualizer.dataset_meta = dict(classes=['a', 'b'], novel_classes=['b'])
    image = np.full((*size, 3), 100, np.uint8)
    visualizer.add_datasample(
        'x', image, sample(form) if result is None else result, draw_gt=False
    )
    return visualizer.get_image()


def test_forms_of_masks_look_the_same() -> None:
    pictures = [draw(form) for form in ('box', 'rle', 'dense')]
    assert (pictures[0] != draw('none')).any()
    for other in pictures[1:]:
        np.testing.assert_array_equal(pictures[0], other)


def test_same_drawing_as_reports() -> None:
    found = sample('rle').pred_instances
    masks = found.masks.numpy()
    expected = draw_objects(
        np.full((*SHAPE, 3), 100, np.uint8),
        [
            ShownObject(tuple(box), name, name == 'b', float(score), mask)
            for box, name, score, mask in zip(
                BOXES.tolist(), 'abb', found.scores, masks, strict=True
            )
        ],
    )
    np.testing.assert_array_equal(draw('rle'), expected)


def test_an_object_has_one_box() -> None:
    result = sample('none')
    twice = InstanceData(
        bboxes=BOXES[[0, 0]] + torch.tensor([[0.0], [1.0]]),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([0.9, 0.8]),
    )
    pictures = []
    for found, kwargs in (
        (twice, {}),
        (twice[:1], {}),
        (twice, dict(shown_iou=1)),
    ):
        result.pred_instances = found
        pictures.append(draw('none', result, **kwargs))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[2] != pictures[0]).any()


def test_annotations_are_all_drawn_and_need_no_names() -> None:
    visualizer = DITOLocalVisualizer()
    result = DetDataSample(
        gt_instances=InstanceData(
            bboxes=BOXES[[0, 0, 1]], labels=torch.tensor([0, 1, 7])
        )
    )
    visualizer.dataset_meta = dict(classes=['a', 'b'])
    visualizer.add_datasample(
        'x', np.zeros((*SHAPE, 3), np.uint8), result, draw_pred=False
    )
    drawn = visualizer.get_image()
    expected = draw_objects(
        np.zeros((*SHAPE, 3), np.uint8),
        [
            ShownObject(tuple(BOXES[i].tolist()), name, False)
            for i, name in ((0, 'a'), (0, 'b'), (1, 'class 7'))
        ],
    )
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize('form', ['box', 'rle', 'dense'])
def test_large_pictures_are_drawn_reduced(form: str) -> None:
    """Boxes and masks are where they are in the whole picture."""
    small = draw(form, max_pixels=80_000)
    assert small.shape == (244, 326, 3)
    # Where the whole picture is tinted or outlined, the small one is.
    kinds = [(p.astype(int) != 100).any(-1) for p in (small, draw(form))]
    kinds[0] = cv2.resize(kinds[0].astype(np.uint8), SHAPE[::-1]) > 0
    assert (kinds[0] == kinds[1]).mean() > 0.95


def test_small_pictures_are_enlarged() -> None:
    result = sample('none')
    result.pred_instances.bboxes = BOXES / 4
    result.set_metainfo(dict(ori_shape=(120, 160)))
    np.testing.assert_array_equal(
        draw('none', result, (120, 160)), draw('none')
    )


def test_extreme_pictures() -> None:
    extreme = DITOLocalVisualizer(max_pixels=10)
    extreme.add_datasample('x', np.zeros((1, 4000, 3), np.uint8))
    assert extreme.get_image().shape[:2] == (1, 10)
