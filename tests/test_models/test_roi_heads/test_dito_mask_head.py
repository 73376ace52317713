# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Mask head: golden loss, shapes, gradients (weights: see test_utils)."""

import numpy as np
import pytest
import torch
from golden_arrays import ROUNDING, close
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from dito.models.roi_heads.box_masks import paste_masks


def build():
    return MODELS.build(
        dict(
            type='DITOMaskHead',
            in_channels=4,
            conv_out_channels=8,
            num_convs=2,
        )
    )


def test_loss_equals_release(golden):
    arrays = {k: torch.from_numpy(v) for k, v in golden('losses').items()}
    logits = arrays['mask/in/logits'].flatten(0, 1).requires_grad_()
    used = arrays['mask/in/class_targets'].flatten() > 0
    target = arrays['mask/in/targets'].flatten(0, 1)[used]
    loss = build().loss_mask(
        logits[used][:, None],
        target,
        torch.zeros(len(target), dtype=torch.long),
    )
    close(loss[0], arrays['mask/out/loss'], ROUNDING)
    loss.backward()
    # The stored gradient keeps 4 mantissa bits.
    np.testing.assert_allclose(
        logits.grad,
        arrays['mask/out/grad'].flatten(0, 1),
        rtol=0.04,
        atol=1e-8,
    )


def test_one_mask_of_twice_the_size_a_box():
    head = build()
    head.init_weights()
    out = head(torch.randn(3, 4, 14, 14))
    assert out.shape == (3, 1, 28, 28)
    out.sum().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_no_boxes():
    assert build()(torch.zeros(0, 4, 14, 14)).shape == (0, 1, 28, 28)


def test_scale_of_the_features_does_not_matter():
    # The first convolution sees unit vectors only.
    head, x = build(), torch.randn(2, 4, 14, 14)
    torch.testing.assert_close(head(x), head(7 * x), rtol=1e-4, atol=1e-5)


def test_inverted_boxes_have_empty_masks():
    # The release keeps boxes whose far corner lies before the near one.
    meta = dict(ori_shape=(40, 30), scale_factor=(1.0, 1.0))
    boxes = torch.tensor(
        [
            [20.0, 5.0, 8.0, 30.0],
            [4.0, 30.0, 25.0, 10.0],
            [5.0, 5.0, 20.0, 30.0],
        ]
    )
    masks = build()._predict_by_feat_single(
        torch.full((3, 1, 28, 28), 9.0),
        boxes,
        torch.zeros(3, dtype=torch.long),
        meta,
        ConfigDict(mask_thr_binary=0.5),
    )
    assert masks.flatten(1).any(dim=1).tolist() == [False, False, True]


@pytest.mark.parametrize('rescale', [True, False])
@pytest.mark.parametrize('count', [1, 3])
def test_boxes_in_the_padding_have_empty_masks(rescale, count):
    # 40 x 30 pixels, shown at twice the size in a square of 128.
    meta = dict(ori_shape=(40, 30), scale_factor=(2.0, 2.0))
    boxes = torch.tensor(
        [
            [80.0, 90.0, 120.0, 127.0],
            [8.0, 8.0, 40.0, 60.0],
            [50.0, 10.0, 100.0, 70.0],
        ]
    )[:count]
    cfg = ConfigDict(mask_thr_binary=0.5)
    given, labels = boxes.clone(), torch.zeros(count, dtype=torch.long)
    masks = build()._predict_by_feat_single(
        torch.full((count, 1, 28, 28), 9.0), given, labels, meta, cfg, rescale
    )
    size = (40, 30) if rescale else (80, 60)
    assert masks.shape == (count, *size) and masks.dtype == torch.bool
    torch.testing.assert_close(given, boxes / 2 if rescale else boxes)
    assert not masks[0].any() and masks[1:].flatten(1).any(dim=1).all()


@pytest.mark.parametrize('rescale', [True, False])
def test_forms_of_masks_are_of_the_same_pixels(rescale):
    boxes = torch.tensor(
        [
            [-4.0, 3.0, 40.0, 90.0],
            [20.5, 8.0, 21.0, 60.0],
            [7.0, 7.0, 7.0, 30.0],
            [70.0, 90.0, 75.0, 95.0],
        ]
    )
    meta = dict(ori_shape=(47, 33), scale_factor=(2.0, 1.9))
    logits = torch.randn(
        4, 1, 28, 28, generator=torch.Generator().manual_seed(0)
    )
    cfg = ConfigDict(mask_thr_binary=0.5)
    found = {}
    for form in ('dense', 'rle', 'box'):
        given = InstanceData(
            bboxes=boxes.clone(), labels=torch.zeros(4, dtype=torch.long)
        )
        (found[form],) = build().predict_by_feat(
            [logits], [given], [dict(meta, mask_form=form)], cfg, rescale
        )
    shape = (47, 33) if rescale else (89, 66)
    assert (
        found['dense'].masks.shape == found['rle'].masks.shape == (4, *shape)
    )
    np.testing.assert_array_equal(
        found['dense'].masks, found['rle'].masks.numpy()
    )
    pasted = paste_masks(
        found['box'].box_masks,
        found['box'].bboxes,
        shape,
        found['box'].mask_thr,
    )
    assert list(pasted) == list(found['rle'].masks)
    for form in ('rle', 'box'):
        torch.testing.assert_close(found['dense'].bboxes, found[form].bboxes)
