# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Drawing of masks one at a time, on pictures of bounded size."""

from typing import Any, Dict

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization.palette import get_palette
from mmengine.structures import InstanceData

from dito.models.roi_heads.box_masks import paste_masks
from dito.visualization import DITOLocalVisualizer

SHAPE = (120, 160)
BOXES = torch.tensor([[10., 12, 70, 60], [50, 40, 150, 115], [5, 90, 5, 90]])
COLORS = [(250, 0, 0), (0, 0, 250)]


def sample(form: str) -> DetDataSample:
    """Three detections whose masks have one of the forms."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 1, 4, 4, generator=generator)
    masks = torch.nn.functional.interpolate(
        coarse, (28, 28), mode='bilinear')[:, 0]
    found: Dict[str, Any] = dict(
        bboxes=BOXES.clone(), labels=torch.tensor([0, 1, 1]),
        scores=torch.tensor([0.9, 0.8, 0.7]))
    if form == 'box':
        found['box_masks'] = masks
    elif form != 'none':
        pasted = paste_masks(masks, BOXES, SHAPE)
        found['masks'] = dict(
            rle=pasted, dense=pasted.to_tensor())[form]
    result = DetDataSample(metainfo=dict(ori_shape=SHAPE))
    result.pred_instances = InstanceData(
        metainfo=dict(mask_thr=0.5), **found)
    return result


def draw(form: str, **kwargs: Any) -> np.ndarray:
    """The picture of the sample."""
    visualizer = DITOLocalVisualizer(**kwargs)
    visualizer.dataset_meta = dict(classes=['a', 'b'], palette=COLORS)
    image = np.full((*SHAPE, 3), 100, np.uint8)
    visualizer.add_datasample('x', image, sample(form), draw_gt=False)
    return visualizer.get_image()


def test_forms_of_masks_look_the_same() -> None:
    pictures = [draw(form) for form in ('box', 'rle', 'dense')]
    assert (pictures[0] != draw('none')).any()
    for other in pictures[1:]:
        np.testing.assert_array_equal(pictures[0], other)


def test_masks_are_blended_in_the_colour_of_their_class() -> None:
    visualizer = DITOLocalVisualizer(alpha=0.6)
    image = np.random.default_rng(1).integers(0, 255, (*SHAPE, 3), np.uint8)
    found = sample('rle').pred_instances
    wanted = image.astype(float)
    outline = np.zeros(SHAPE, bool)
    for mask, label in zip(found.masks.numpy(), found.labels, strict=True):
        wanted[mask] = (0.4 * wanted[mask]
                        + 0.6 * np.array(COLORS[label])).round()
        inner = mask.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                inner &= np.roll(mask, step, axis)
        outline |= mask & ~inner
    drawn = visualizer._blend(image, found, COLORS)
    away = ~outline
    away[:, [0, -1]] = away[[0, -1]] = False
    assert (drawn[away] != image[away]).any()
    np.testing.assert_allclose(drawn[away], wanted[away], atol=1)
    assert (drawn[outline] == 255).all(-1).mean() > 0.9
    assert get_palette(COLORS, 2) == COLORS


@pytest.mark.parametrize('form', ['box', 'rle', 'dense'])
def test_large_pictures_are_drawn_reduced(form: str) -> None:
    small = draw(form, max_pixels=5000, line_width=1)
    assert small.shape == (61, 81, 3)
    full = draw(form, line_width=1)
    # Masks are at their places: what is red, blue or neither.
    kinds = [np.stack([p[..., 0] > 150, p[..., 2] > 150]).astype(float)
             for p in (small, full[::2, ::2][:60, :80])]
    same = (kinds[0][:, :60, :80] == kinds[1]).mean()
    assert same > 0.85
    extreme = DITOLocalVisualizer(max_pixels=10)
    extreme.add_datasample('x', np.zeros((1, 4000, 3), np.uint8))
    assert extreme.get_image().shape[:2] == (1, 10)
