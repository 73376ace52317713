# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import pytest
import torch
from pretrainer_models import build, clip_cfg, make_batch

from dito.models.pretrainers.clip_pretrainer import Mosaic
from dito.models.pretrainers.random_regions import BatchPlace

PLACE = BatchPlace(seed=0, iteration=3, start=0, total=8)


def test_even_tiles_are_the_images():
    images = torch.rand(8, 3, 16, 16)
    pictures, rois = Mosaic(grid=2, jitter=0).compose(images)
    assert pictures.shape == (2, 3, 32, 32)
    for image, (number, x1, y1, x2, y2) in zip(
        images, rois.long().tolist(), strict=True
    ):
        tile = pictures[number, :, y1:y2, x1:x2]
        torch.testing.assert_close(tile, image)


def test_tiles_cover_each_picture_once():
    images = torch.rand(8, 3, 16, 16)
    _, rois = Mosaic(grid=2, jitter=0.4).compose(images, PLACE)
    covered = torch.zeros(2, 32, 32, dtype=torch.long)
    sides = set()
    for number, x1, y1, x2, y2 in rois.long().tolist():
        covered[number, y1:y2, x1:x2] += 1
        sides.update((x2 - x1, y2 - y1))
        assert 16 * 0.6 - 1 <= min(x2 - x1, y2 - y1)
    assert covered.eq(1).all()
    assert len(sides) > 2


def test_tile_holds_its_image_resized():
    # A constant image stays constant at any size.
    values = torch.arange(8.0)
    images = values.view(8, 1, 1, 1).expand(8, 3, 16, 16)
    pictures, rois = Mosaic(grid=2, jitter=0.4).compose(images, PLACE)
    for value, (number, x1, y1, x2, y2) in zip(
        values, rois.long().tolist(), strict=True
    ):
        tile = pictures[number, :, y1:y2, x1:x2]
        torch.testing.assert_close(tile, value.expand_as(tile))


def test_borders_are_drawn_from_the_place():
    mosaic = Mosaic(grid=2)
    first = mosaic.borders(2, 16, PLACE)
    assert torch.equal(first, mosaic.borders(2, 16, PLACE))
    # The second half of the batch alone gets the borders it has in the whole.
    assert torch.equal(first[1:], mosaic.borders(1, 16, PLACE.moved(4)))
    other = PLACE._replace(iteration=4)
    assert not torch.equal(first, mosaic.borders(2, 16, other))


def test_pool_is_the_mean_over_whole_cells():
    feat = torch.rand(2, 5, 8, 8, dtype=torch.float32)
    # Fine bins of a linear ramp: RoIAlign's mean is the value at the middle.
    feat[:, 0] = torch.arange(8.0).view(1, 1, 8)
    rois = torch.tensor(
        [[0, 8.0, 8.0, 24.0, 32.0], [1, 16.0, 0.0, 48.0, 64.0]]
    )
    pooled = Mosaic.pool(feat, rois, stride=8)
    torch.testing.assert_close(pooled[:, 0], torch.tensor([1.5, 3.5]))


def test_training_embeds_tiles_and_evaluation_whole_images():
    model = build(clip_cfg(mosaic=dict(grid=2, jitter=0.3)))
    plain = build(clip_cfg())
    plain.load_state_dict(model.state_dict())
    batch = make_batch()
    inputs = model.data_preprocessor(batch)['inputs']
    model.train()
    data = model.data_preprocessor(batch, True)
    embedded = model(**data, mode='embed')[0]['image']
    pictures, rois = model.mosaic.compose(inputs, batch['place'])
    feat = model.backbone(pictures)[0]
    expected = Mosaic.pool(feat, rois, model.backbone.patch_size)
    torch.testing.assert_close(embedded, expected)
    torch.testing.assert_close(
        model(inputs, mode='tensor'), plain(inputs, mode='tensor')
    )


@pytest.mark.parametrize('share', [0.0, 1.0])
def test_mosaics_can_be_seen_without_windows(share):
    cfg = clip_cfg(mosaic=dict(grid=2, jitter=0.3, global_prob=share))
    whole = build(cfg)
    cfg['backbone'].update(window=dict(size=1), global_layers=0, shift='swl')
    cut = build(cfg)
    cut.load_state_dict(whole.state_dict())
    batch = make_batch()
    embedded = [
        model.train()(**model.data_preprocessor(batch, True), mode='embed')
        for model in (whole, cut)
    ]
    expected, found = (pair[0]['image'] for pair in embedded)
    assert torch.allclose(found, expected, atol=1e-5) == bool(share)
    # Only mosaics are: afterwards the tower has its windows again.
    inputs = cut.data_preprocessor(batch)['inputs']
    assert cut.backbone.plan.shift == 'swl'
    assert not torch.allclose(
        cut(inputs, mode='tensor'), whole(inputs, mode='tensor'), atol=1e-5
    )


def test_share_of_global_mosaics_is_independent_of_the_share_of_mosaics():
    mosaic = Mosaic(prob=0.5, global_prob=0.5)
    places = [PLACE._replace(iteration=i) for i in range(400)]
    both = [(mosaic.wanted(p), mosaic.attends_globally(p)) for p in places]
    assert all(
        60 < both.count((a, b)) < 140
        for a in (False, True)
        for b in (False, True)
    )
    assert not any(Mosaic().attends_globally(p) for p in [*places, None])


@pytest.mark.parametrize('shape', [(3, 3, 16, 16), (4, 3, 16, 8)])
def test_batches_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match='multiples of 4'):
        Mosaic(grid=2).compose(torch.zeros(shape))


def test_share_of_mosaics_does_not_depend_on_the_part_of_a_batch():
    mosaic = Mosaic(prob=0.75)
    places = [PLACE._replace(iteration=i) for i in range(400)]
    wanted = [mosaic.wanted(place) for place in places]
    assert 0.65 < sum(wanted) / 400 < 0.85
    assert wanted == [mosaic.wanted(p.moved(4)) for p in places]
    assert not any(Mosaic(prob=0.0).wanted(p) for p in [*places, None])
    assert Mosaic().wanted(None)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match='jitter'):
        Mosaic(grid=2, jitter=0.5)
