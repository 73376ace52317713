# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import pytest
import torch

from dito.models.pretrainers import (
    BatchPlace,
    RandomRegions,
)
from dito.models.pretrainers.random_regions import boxes_from_uniform


def test_boxes_follow_the_paper():
    boxes = boxes_from_uniform(torch.rand(20000, 4, dtype=torch.float64))
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    assert x1.min() >= 0 and y1.min() >= 0
    assert x2.max() <= 1 and y2.max() <= 1
    for side in (width, height):
        assert 0.2 <= side.min() < 0.201 and 0.499 < side.max() <= 0.5
        assert abs(side.mean() - 0.35) < 0.005
    ratio = height / width
    assert 0.5 - 1e-9 <= ratio.min() and ratio.max() <= 2 + 1e-9
    # Few boxes were cut to the limit: the sides are uniform but for these.
    cut = ((ratio - 0.5).abs() < 1e-9) | ((ratio - 2).abs() < 1e-9)
    assert 0.045 < cut.double().mean() < 0.065
    # Given its size, a box stands anywhere inside.
    place = x1 / (1 - width)
    assert abs(place.mean() - 0.5) < 0.01 and abs(place.std() - 0.2887) < 0.01


@pytest.mark.parametrize('sampling', ['area', 'height'])
def test_other_readings_of_the_size(sampling):
    """Two of the three laws hold to the letter, the third follows."""
    uniform = torch.rand(20000, 4, dtype=torch.float64)
    x1, y1, x2, y2 = boxes_from_uniform(uniform, sampling=sampling).unbind(-1)
    width, height = x2 - x1, y2 - y1
    assert x1.min() >= 0 and y1.min() >= 0
    assert x2.max() <= 1 and y2.max() <= 1
    size = (height * width).sqrt() if sampling == 'area' else height
    for values, low, high in ((size, 0.2, 0.5), (height / width, 0.5, 2)):
        share = ((values - low) / (high - low)).sort().values
        # As far from uniform as so many numbers are (Kolmogorov, Smirnov).
        places = (torch.arange(20000) + 0.5) / 20000
        assert (share - places).abs().max() < 0.015


def test_centres_are_uniform_over_the_image():
    """The border is covered as often as the middle, unlike by 'inside'."""
    covered = {}
    for position in ('inside', 'centre'):
        x1, _, x2, _ = boxes_from_uniform(
            torch.rand(20000, 4), position=position
        ).unbind(-1)
        assert x1.min() >= 0 and x2.max() <= 1 and (x1 <= x2).all()
        covered[position] = [
            ((x1 <= x) & (x <= x2)).float().mean() for x in (0.01, 0.5)
        ]
    border, middle = covered['centre']
    assert abs(middle - 0.34) < 0.02 and 0.45 < border / middle < 0.6
    border, middle = covered['inside']
    assert border / middle < 0.1


def test_boxes_by_hand():
    uniform = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.5]]
    )
    boxes = boxes_from_uniform(uniform)
    expected = torch.tensor(
        [[0, 0, 0.2, 0.2], [0.5, 0.5, 1, 1], [0.4, 0, 0.6, 0.4]]
    )
    torch.testing.assert_close(boxes, expected)


def test_the_numbers_of_the_paper_are_the_defaults():
    regions = RandomRegions()
    assert regions.num_regions == (400, 200, 100, 50)
    assert regions.size == (0.2, 0.5) and regions.ratio == (0.5, 2.0)
    sides = torch.cat(
        [(b[..., 2:] - b[..., :2]) / 256 for b in regions(8, (256, 256))], 1
    )
    assert sides.min() >= 0.2 - 1e-5 and sides.max() <= 0.5 + 1e-5
    assert sides.min() < 0.21 and sides.max() > 0.49


def test_levels_and_pixels():
    regions = RandomRegions()
    boxes = regions(3, (256, 128), BatchPlace(0, 0, 0, 3))
    assert [tuple(b.shape) for b in boxes] == [
        (3, n, 4) for n in (400, 200, 100, 50)
    ]
    every = torch.cat(boxes, dim=1)
    assert every[..., 2].max() <= 128 and every[..., 3].max() > 200
    assert len(every[..., 0].unique()) > 2000  # images and levels differ


def test_draws_are_repeatable_and_change():
    regions = RandomRegions((2, 1))
    one, again, other = [
        regions(2, (32, 32), BatchPlace(0, i, 0, 2)) for i in (0, 0, 1)
    ]
    assert torch.equal(one[0], again[0])
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(regions(2, (32, 32))[0], regions(2, (32, 32))[0])


def test_numbers_scale_with_the_area():
    regions = RandomRegions(scale_regions=True)
    assert regions.counts((256, 256)) == (400, 200, 100, 50)
    assert regions.counts((128, 128)) == (100, 50, 25, 12)
    assert regions.counts((512, 256)) == (800, 400, 200, 100)
    assert regions.counts((8, 8)) == (1, 1, 1, 1)
    assert RandomRegions().counts((128, 128)) == (400, 200, 100, 50)


@pytest.mark.parametrize(
    'kwargs,text',
    [
        (dict(num_regions=(4, 0)), 'at least one box'),
        (dict(size=(0.5, 0.2)), 'size must be'),
        (dict(ratio=(1.5, 2)), 'around 1'),
        (dict(sampling='both'), "sampling is 'both'"),
        (dict(position='border'), "position is 'border'"),
    ],
)
def test_wrong_arguments(kwargs, text):
    with pytest.raises(ValueError, match=text):
        RandomRegions(**kwargs)
