# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of the drawing of objects."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from dito.visualization import ShownObject, draw_objects
from dito.visualization.colors import BASE_COLOR, NOVEL_COLOR
from dito.visualization.labels import overlap, place_label
from dito.visualization.shown_object import from_prediction

IMAGE = np.full((80, 120, 3), 128, np.uint8)


def thing(novel: bool = False, **kwargs) -> ShownObject:
    return ShownObject((20, 40, 60, 70), 'kite', novel, **kwargs)


def has(image: np.ndarray, color) -> np.ndarray:
    return (image == color).all(axis=2)


def test_base_and_novel_have_their_colors():
    distance = np.abs(np.subtract(BASE_COLOR, NOVEL_COLOR)).sum()
    assert distance > 200
    for novel, own, other in ((False, BASE_COLOR, NOVEL_COLOR),
                              (True, NOVEL_COLOR, BASE_COLOR)):
        drawn = draw_objects(IMAGE, [thing(novel)])
        assert has(drawn, own)[55, 20] and has(drawn, own)[70, 40]
        assert not has(drawn, other).any()
        # Inside, and away from the box and its label, nothing changes.
        np.testing.assert_array_equal(drawn[55, 40], IMAGE[55, 40])
        np.testing.assert_array_equal(drawn[:, 100:], IMAGE[:, 100:])
    assert (IMAGE == 128).all()


def test_masks_are_half_transparent():
    mask = np.zeros(IMAGE.shape[:2], bool)
    mask[50:60, 30:50] = True
    drawn = draw_objects(IMAGE, [thing(mask=mask)])
    wanted = np.round(128 + 0.4 * (np.array(BASE_COLOR) - 128))
    np.testing.assert_array_equal(drawn[55, 40], wanted)
    np.testing.assert_array_equal(drawn[65, 40], (128, 128, 128))
    with pytest.raises(ValueError, match=r"'kite' has shape \(4, 4\)"):
        draw_objects(IMAGE, [thing(mask=np.zeros((4, 4), bool))])


def test_the_better_detection_lies_above():
    both = [thing(True, score=.9), thing(False, score=.5)]
    assert has(draw_objects(IMAGE, both), NOVEL_COLOR)[55, 20]
    assert has(draw_objects(IMAGE, both[::-1]), BASE_COLOR)[55, 20]


def test_enlarged_picture():
    drawn = draw_objects(IMAGE, [thing()], scale=3)
    assert drawn.shape == (240, 360, 3)
    assert has(drawn, BASE_COLOR)[165, 60]
    empty = ShownObject((5, 5, 5, 5), 'dot', True)
    assert draw_objects(IMAGE, [empty]).shape == IMAGE.shape


def test_other_pictures_are_refused():
    for image in (IMAGE[..., 0], IMAGE.astype(np.float32)):
        with pytest.raises(ValueError, match='uint8 of shape'):
            draw_objects(image, [])


def test_labels():
    assert thing().label == 'kite'
    assert thing(score=0.876).label == 'kite 0.88'
    assert ShownObject((0, 0, 1, 1), 'knight_(piece)', True).label != (
        'knight_(piece)')


def test_labels_avoid_each_other_and_the_edge():
    picture = (100, 100)
    rng = np.random.default_rng(0)
    taken = []
    for x, y in rng.uniform(0, 80, (4, 2)):
        place = place_label((x, y, x + 20, y + 20), (40, 12), picture, taken)
        assert 0 <= place[0] and place[2] <= 100
        assert 0 <= place[1] and place[3] <= 100
        taken.append(place)
    first = place_label((10, 50, 40, 80), (30, 12), picture, [])
    assert first == (10, 38, 40, 50)
    second = place_label((10, 50, 40, 80), (30, 12), picture, [first])
    assert overlap(first, second) == 0


def test_from_prediction():
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 1
    code = coco_mask.encode(np.asfortranarray(mask))
    result = dict(
        names=['anchor', 'kite'],
        scores=[.9, .4],
        bboxes=[[0, 1, 2, 3], [1, 1, 4, 4]],
        masks=[dict(size=[4, 6], counts=code['counts'].decode())] * 2)
    first, second = from_prediction(result, ['kite'])
    assert (first.novel, second.novel) == (False, True)
    assert (first.box, second.score) == ((0, 1, 2, 3), .4)
    np.testing.assert_array_equal(first.mask, mask.astype(bool))
    del result['masks']
    assert from_prediction(result, [])[1].mask is None
