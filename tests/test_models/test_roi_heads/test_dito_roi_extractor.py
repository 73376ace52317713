# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""RoI features: golden numbers, float32 coordinates, equal means."""

import numpy as np
import pytest
import torch
from golden_arrays import XYXY, close, golden_cases, levels
from mmdet.registry import MODELS

# Weights of interpolation are differences of coordinates on the map: of
# their 1e-7, times the cells of a side, a few times over.
CELLS = 1e-6
SIZES = [int(x) for x in golden_cases('roi_crop', r'pyramid/out/crop_(\d+)')]
SINGLE = [int(x) for x in golden_cases('roi_crop', r'single/out/crop_(\d+)')]


def build(size, samples=1, strides=(4, 8, 16, 32), channels=4):
    return MODELS.build(
        dict(
            type='DITORoIExtractor',
            roi_layer=dict(
                type='RoIAlign',
                output_size=size,
                sampling_ratio=samples,
                aligned=False,
            ),
            out_channels=channels,
            featmap_strides=list(strides),
        )
    )


def with_image(boxes):
    """RoIs (N, 5) of golden boxes of several images."""
    boxes = torch.from_numpy(boxes)[..., XYXY]
    index = torch.arange(float(len(boxes)))[:, None, None]
    index = index.expand(-1, boxes.shape[1], 1)
    return torch.cat([index, boxes], -1).reshape(-1, 5)


def golden_inputs(arrays, part):
    numbers = levels(arrays, f'{part}/in/features_')
    feats = [
        torch.from_numpy(arrays[f'{part}/in/features_{i}']).permute(0, 3, 1, 2)
        for i in numbers
    ]
    kwargs = dict(strides=[2**i for i in numbers], channels=feats[0].shape[1])
    return feats, with_image(arrays[f'{part}/in/boxes']), kwargs


def flat(crops):
    """Crops (N, size, size, C) of all images."""
    return crops.reshape(-1, *crops.shape[2:])


@pytest.mark.parametrize('size', SIZES)
def test_crops_equal_release(golden, size):
    arrays = golden('roi_crop')
    feats, rois, kwargs = golden_inputs(arrays, 'pyramid')
    extractor = build(size, **kwargs)
    lowest = levels(arrays, 'pyramid/in/features_')[0]
    chosen = arrays['pyramid/mid/levels'].ravel() - lowest
    np.testing.assert_array_equal(
        extractor.map_roi_levels(rois, len(feats)), chosen
    )
    expected = flat(arrays[f'pyramid/out/crop_{size}'])
    error = np.abs(
        extractor(feats, rois).permute(0, 2, 3, 1).numpy() - expected
    )
    # torchvision widens a box below one cell to one cell, the release does
    # not; all other boxes agree.
    strides = np.array(kwargs['strides'])[chosen]
    narrow = (rois[:, 3:] - rois[:, 1:3]).amin(1).numpy() < strides
    assert narrow.sum() < len(narrow) / 2
    tolerance = CELLS * feats[0].shape[-1] * np.abs(expected).max()
    assert error[~narrow].max() < tolerance
    # A box without area lies in one cell anyway.
    some = narrow & (rois[:, 3:] > rois[:, 1:3]).all(1).numpy()
    assert not some.any() or error[some].max() > tolerance


def test_single_sample_of_many_bins_is_their_mean(golden):
    arrays = golden('roi_crop')
    feats, rois, kwargs = golden_inputs(arrays, 'single')
    size = max(SINGLE)
    bins = build(size, **kwargs)(feats, rois).mean((2, 3))
    mean = build(1, samples=size, **kwargs)(feats, rois)[..., 0, 0]
    close(mean, bins)
    expected = flat(arrays[f'single/out/crop_{size}']).mean((1, 2))
    wide = (rois[:, 3:] - rois[:, 1:3]).amin(1) >= kwargs['strides'][0]
    close(mean[wide], expected[wide], CELLS * feats[0].shape[-1])


def test_coordinates_are_not_rounded_with_bfloat16_features():
    ramp = torch.arange(64.0).expand(1, 1, 64, 64).contiguous()
    rois = torch.tensor([[0.0, 901.3, 903.7, 917.3, 921.7]])
    extractor = build(1, strides=[16], channels=1)
    expected = extractor((ramp,), rois)
    with torch.autocast('cpu', torch.bfloat16):
        got = extractor((ramp.bfloat16(),), rois)
    assert got.dtype == torch.float32 and torch.equal(got, expected)
    assert expected.item() == pytest.approx((901.3 + 917.3) / 32, abs=1e-4)


def test_boxes_without_area_take_the_finest_level():
    rois = torch.tensor(
        [
            [0.0, 5.0, 5.0, 5.0, 5.0],
            [0.0, 90.0, 5.0, 10.0, 300.0],
            [0.0, 300.0, 300.0, 10.0, 10.0],
        ]
    )
    extractor = build(7)
    assert extractor.map_roi_levels(rois, 4).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    'side, level',
    [
        (8, 0),
        (111.9, 0),
        (112, 1),
        (223, 1),
        (224, 2),
        (447, 2),
        (448, 3),
        (2000, 3),
    ],
)
def test_level_rule(side, level):
    rois = torch.tensor([[0.0, 0.0, 0.0, side, side]])
    assert build(7).map_roi_levels(rois, 4).item() == level


@pytest.mark.parametrize('strides', [[16], [4, 8]])
def test_no_rois_keep_the_graph(strides):
    feats = [torch.randn(1, 4, 8, 8, requires_grad=True) for _ in strides]
    out = build(7, strides=strides)(feats, torch.zeros(0, 5))
    assert out.shape == (0, 4, 7, 7)
    out.sum().backward()
    assert all(not f.grad.any() for f in feats)


def build_cells(size, samples=1, strides=(4, 8, 16, 32), channels=4):
    return MODELS.build(
        dict(
            type='DITORoIExtractor',
            roi_layer=dict(
                type='DITOCellAlign', output_size=size, sampling_ratio=samples
            ),
            out_channels=channels,
            featmap_strides=list(strides),
        )
    )


@pytest.mark.parametrize('size', SIZES)
def test_cell_align_equals_release_for_every_box(golden, size):
    arrays = golden('roi_crop')
    feats, rois, kwargs = golden_inputs(arrays, 'pyramid')
    got = build_cells(size, **kwargs)(feats, rois)
    close(
        got.permute(0, 2, 3, 1),
        flat(arrays[f'pyramid/out/crop_{size}']),
        CELLS * feats[0].shape[-1],
    )


@pytest.mark.parametrize('size', SINGLE)
def test_cell_align_on_one_level_equals_release_for_every_box(golden, size):
    arrays = golden('roi_crop')
    feats, rois, kwargs = golden_inputs(arrays, 'single')
    got = build_cells(size, **kwargs)(feats, rois)
    close(
        got.permute(0, 2, 3, 1),
        flat(arrays[f'single/out/crop_{size}']),
        CELLS * feats[0].shape[-1],
    )


@pytest.mark.parametrize(
    'size, scale',
    golden_cases('roi_crop', r'single/out/pooled_(\d+)_scaled_([\d.]+)'),
)
def test_mean_of_a_shrunk_box_equals_release(golden, size, scale):
    # What the VLM score takes.
    arrays = golden('roi_crop')
    feats, _, kwargs = golden_inputs(arrays, 'single')
    shrunk = with_image(arrays[f'single/mid/boxes_scaled_{scale}'])
    mean = build_cells(1, int(size), **kwargs)(feats, shrunk)[..., 0, 0]
    expected = arrays[f'single/out/pooled_{size}_scaled_{scale}']
    close(
        mean,
        expected.reshape(-1, expected.shape[-1]),
        CELLS * feats[0].shape[-1],
    )


def test_unknown_roi_layers_are_mmcvs():
    assert type(build(7).roi_layers[0]).__name__ == 'RoIAlign'
    assert type(build_cells(7).roi_layers[0]).__name__ == 'DITOCellAlign'
