# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pasting of masks into run lengths, against MMDetection's dense pasting."""

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures.mask import encode_mask_results
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from dito.models.roi_heads import box_masks
from dito.models.roi_heads.box_masks import (
    RunLengthMasks,
    crop_rle,
    paste_crop,
    paste_masks,
)

SHAPE = (61, 47)
BOXES = {
    'whole image': [0, 0, 47, 61],
    'beyond all borders': [-20, -9.5, 80, 70.25],
    'beyond the left': [-30, 10, 4.3, 50],
    'beyond the right': [40.2, 5, 90, 30],
    'all rows of some columns': [10, -300, 14, 400],
    'one column': [20, 0, 21, 61],
    'one pixel': [7, 9, 8, 10],
    'less than a pixel': [7.3, 9.2, 7.6, 9.4],
    'no width': [12.5, 10, 12.5, 40],
    'no area': [12.25, 10.25, 12.25, 10.25],
    'last pixel': [46, 60, 47, 61],
    'ordinary': [3.7, 8.1, 30.9, 44.4],
}


def dense(
    mask: torch.Tensor, box: torch.Tensor, shape: tuple, threshold: float
) -> np.ndarray:
    """MMDetection's pasting into the whole image, bool (H, W)."""
    pasted, _ = _do_paste_mask(
        mask[None, None], box[None], *shape, skip_empty=False
    )
    return (pasted[0] >= threshold).numpy()


@pytest.mark.parametrize('pixels', [1 << 20, 130, 1])
@pytest.mark.parametrize('threshold', [0.5, 0.2, 0.0])
@pytest.mark.parametrize('name', BOXES)
def test_equal_to_dense_pasting(
    name: str, threshold: float, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box_masks, '_PIXELS', pixels)
    generator = torch.Generator().manual_seed(len(name))
    mask = torch.rand(28, 28, generator=generator)
    box = torch.tensor(BOXES[name], dtype=torch.float32)
    pasted, places = _do_paste_mask(
        mask[None, None], box[None], *SHAPE, skip_empty=True
    )
    wanted = np.zeros(SHAPE, bool)
    wanted[places] = (pasted[0] >= threshold).numpy()
    if threshold and not name.startswith('no '):
        # The pixels around the region are of probability 0. A box without
        # an area has its centre everywhere, as MMDetection has it on GPUs.
        np.testing.assert_array_equal(
            wanted, dense(mask, box, SHAPE, threshold)
        )
    found = paste_masks(mask[None], box[None], SHAPE, threshold)
    # Equal bytes: those of pycocotools have no second form.
    assert found[0] == encode_mask_results(wanted[None])[0]
    np.testing.assert_array_equal(found.numpy()[0], wanted)
    left, top, crop = paste_crop(mask, box, SHAPE, threshold)
    again = np.zeros(SHAPE, bool)
    again[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    np.testing.assert_array_equal(again, wanted)
    left, top, crop = crop_rle(found[0])
    again[:] = False
    again[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    np.testing.assert_array_equal(again, wanted)


@pytest.mark.parametrize(
    'box',
    [
        [50, 10, 60, 20],  # in the padding, right of the image
        [10, 70, 20, 80],
        [-30, 5, -20, 20],
        [30, 10, 20, 40],  # inverted
        [float('nan')] * 4,
    ],
)
def test_boxes_without_a_pixel_are_empty(box: list[float]) -> None:
    mask, corners = torch.ones(28, 28), torch.tensor(box)
    found = paste_masks(mask[None], corners[None], SHAPE)
    assert found[0] == coco_mask.encode(np.zeros(SHAPE, np.uint8, order='F'))
    assert paste_crop(mask, corners, SHAPE)[2].size == 0
    assert crop_rle(found[0])[2].size == 0


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (9, 1)])
def test_thin_images(shape: tuple) -> None:
    mask = torch.rand(28, 28, generator=torch.Generator().manual_seed(3))
    box = torch.tensor([-1.0, -2.0, 8.0, 7.5])
    wanted = dense(mask, box, shape, 0.5)
    found = paste_masks(mask[None], box[None], shape)
    assert found[0] == encode_mask_results(wanted[None])[0]


@pytest.fixture
def three() -> RunLengthMasks:
    masks = torch.stack([torch.full((28, 28), v) for v in (0.9, 0.8, 0.1)])
    boxes = torch.tensor([[2.0, 3, 9, 8], [10, 10, 20, 30], [0, 0, 5, 5]])
    return paste_masks(masks, boxes, SHAPE)


@pytest.mark.parametrize(
    'rows',
    [
        torch.tensor([True, False, True]),
        torch.tensor([2, 0]),
        slice(1, 3),
        np.array([1]),
        torch.zeros(3, dtype=torch.bool),
    ],
)
def test_rows_of_instance_data(three: RunLengthMasks, rows: Any) -> None:
    found = InstanceData(labels=torch.arange(3), masks=three)[rows]
    labels = found.labels.tolist()
    assert isinstance(found.masks, RunLengthMasks)
    assert [found.masks[i] for i in range(len(labels))] == [
        three[i] for i in labels
    ]
    assert found.masks.shape == (len(labels), *SHAPE)
    assert found.cpu().masks.numpy().shape == (len(labels), *SHAPE)


def test_reads_as_an_array(three: RunLengthMasks) -> None:
    pixels = three.detach().cpu().numpy()
    assert pixels.dtype == bool and pixels.any((1, 2)).tolist() == [
        True,
        True,
        False,
    ]
    np.testing.assert_array_equal(np.asarray(three), pixels)
    np.testing.assert_array_equal(three.astype('uint8'), pixels)
    assert three.to_tensor(torch.float32, 'cpu').sum() == pixels.sum()
    assert [rle['size'] for rle in three] == [[61, 47]] * 3
