# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""RoI features: golden numbers, float32 coordinates, equal means."""

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS


def build(size, samples=1, strides=(4, 8, 16, 32), channels=4):
    return MODELS.build(
        dict(
            type='DITORoIExtractor',
            roi_layer=dict(
                type='RoIAlign',
                output_size=size,
                sampling_ratio=samples,
                aligned=False),
            out_channels=channels,
            featmap_strides=list(strides)))


def golden_inputs(arrays, part, levels):
    feats = [
        torch.from_numpy(arrays[f'{part}/in/features_{i}']).permute(
            0, 3, 1, 2) for i in levels
    ]
    boxes = torch.from_numpy(arrays[f'{part}/in/boxes'])[..., [1, 0, 3, 2]]
    index = torch.arange(2.0)[:, None, None].expand(2, boxes.shape[1], 1)
    return feats, torch.cat([index, boxes], -1).reshape(-1, 5)


@pytest.mark.parametrize('size', [7, 14])
def test_crops_equal_release(golden, size):
    arrays = golden('roi_crop')
    feats, rois = golden_inputs(arrays, 'pyramid', (2, 3, 4, 5))
    extractor = build(size)
    levels = arrays['pyramid/mid/levels'].ravel() - 2
    np.testing.assert_array_equal(extractor.map_roi_levels(rois, 4), levels)
    expected = arrays[f'pyramid/out/crop_{size}'].reshape(-1, size, size, 4)
    error = np.abs(
        extractor(feats, rois).permute(0, 2, 3, 1).numpy() - expected)
    # torchvision widens a box below one cell to one cell, the release does
    # not; all other boxes agree.
    strides = 4 * 2**levels
    narrow = ((rois[:, 3:] - rois[:, 1:3]).amin(1).numpy() < strides)
    assert 1 <= narrow.sum() <= 3
    assert error[~narrow].max() < 1e-4
    assert error[narrow].max() > 1e-2


def test_single_sample_of_many_bins_is_their_mean(golden):
    arrays = golden('roi_crop')
    feats, rois = golden_inputs(arrays, 'single', (4, ))
    bins = build(14, strides=[16])(feats, rois).mean((2, 3))
    mean = build(1, samples=14, strides=[16])(feats, rois)[..., 0, 0]
    torch.testing.assert_close(mean, bins, rtol=0, atol=2e-6)
    expected = arrays['single/out/crop_14'].mean((2, 3)).reshape(-1, 4)
    wide = (rois[:, 3:] - rois[:, 1:3]).amin(1) >= 16
    np.testing.assert_allclose(mean[wide], expected[wide], atol=1e-4)


def test_coordinates_are_not_rounded_with_bfloat16_features():
    ramp = torch.arange(64.0).expand(1, 1, 64, 64).contiguous()
    rois = torch.tensor([[0., 901.3, 903.7, 917.3, 921.7]])
    extractor = build(1, strides=[16], channels=1)
    expected = extractor((ramp, ), rois)
    with torch.autocast('cpu', torch.bfloat16):
        got = extractor((ramp.bfloat16(), ), rois)
    assert got.dtype == torch.float32 and torch.equal(got, expected)
    assert expected.item() == pytest.approx((901.3 + 917.3) / 32, abs=1e-4)


def test_boxes_without_area_take_the_finest_level():
    rois = torch.tensor([[0., 5., 5., 5., 5.], [0., 90., 5., 10., 300.],
                         [0., 300., 300., 10., 10.]])
    extractor = build(7)
    assert extractor.map_roi_levels(rois, 4).tolist() == [0, 0, 0]


@pytest.mark.parametrize('side, level', [(8, 0), (111.9, 0), (112, 1),
                                         (223, 1), (224, 2), (447, 2),
                                         (448, 3), (2000, 3)])
def test_level_rule(side, level):
    rois = torch.tensor([[0., 0., 0., side, side]])
    assert build(7).map_roi_levels(rois, 4).item() == level


@pytest.mark.parametrize('strides', [[16], [4, 8]])
def test_no_rois_keep_the_graph(strides):
    feats = [torch.randn(1, 4, 8, 8, requires_grad=True) for _ in strides]
    out = build(7, strides=strides)(feats, torch.zeros(0, 5))
    assert out.shape == (0, 4, 7, 7)
    out.sum().backward()
    assert all(not f.grad.any() for f in feats)


def build_cells(size, samples=1, strides=(4, 8, 16, 32)):
    return MODELS.build(
        dict(
            type='DITORoIExtractor',
            roi_layer=dict(
                type='DITOCellAlign',
                output_size=size,
                sampling_ratio=samples),
            out_channels=4,
            featmap_strides=list(strides)))


@pytest.mark.parametrize('size', [7, 14])
def test_cell_align_equals_release_for_every_box(golden, size):
    arrays = golden('roi_crop')
    feats, rois = golden_inputs(arrays, 'pyramid', (2, 3, 4, 5))
    got = build_cells(size)(feats, rois).permute(0, 2, 3, 1)
    expected = arrays[f'pyramid/out/crop_{size}'].reshape(-1, size, size, 4)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_cell_align_on_one_level_equals_release_for_every_box(golden):
    arrays = golden('roi_crop')
    feats, rois = golden_inputs(arrays, 'single', (4, ))
    extractor = build_cells(14, strides=[16])
    got = extractor(feats, rois).permute(0, 2, 3, 1)
    expected = arrays['single/out/crop_14'].reshape(-1, 14, 14, 4)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    # The mean of boxes shrunk to 0.7, which the VLM score takes.
    shrunk = torch.cat([
        rois[:, :1],
        torch.from_numpy(arrays['single/mid/boxes_scaled_0.7'])
        [..., [1, 0, 3, 2]].reshape(-1, 4)
    ], 1)
    mean = build_cells(1, 14, [16])(feats, shrunk)[..., 0, 0]
    np.testing.assert_allclose(
        mean, arrays['single/out/pooled_14_scaled_0.7'].reshape(-1, 4),
        atol=1e-4)


def test_unknown_roi_layers_are_mmcvs():
    assert type(build(7).roi_layers[0]).__name__ == 'RoIAlign'
    assert type(build_cells(7).roi_layers[0]).__name__ == 'DITOCellAlign'
