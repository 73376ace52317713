# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of the drawing of objects."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from dito.visualization import ShownObject, draw_objects
from dito.visualization.drawing import (
    LabelPlaces,
    draw_legend,
    label_font,
    shortened,
)
from dito.visualization.objects import (
    BASE_COLOR,
    HIT,
    LEGEND,
    MISSED,
    MISSED_COLOR,
    NOVEL_COLOR,
    WRONG,
    WRONG_COLOR,
    distinct,
    from_prediction,
    judge,
)

IMAGE = np.full((80, 120, 3), 128, np.uint8)


def thing(novel: bool = False, **kwargs) -> ShownObject:
    return ShownObject((20, 40, 60, 70), 'kite', novel, **kwargs)


def has(image: np.ndarray, color) -> np.ndarray:
    return (image == color).all(axis=2)


COLORS = (BASE_COLOR, NOVEL_COLOR, WRONG_COLOR, MISSED_COLOR)


@pytest.mark.parametrize(
    'novel, verdict, color',
    [
        (False, '', BASE_COLOR),
        (True, '', NOVEL_COLOR),
        (False, HIT, BASE_COLOR),
        (True, HIT, NOVEL_COLOR),
        (False, WRONG, WRONG_COLOR),
        (True, WRONG, WRONG_COLOR),
        (True, MISSED, MISSED_COLOR),
    ],
)
def test_each_verdict_has_its_color(novel, verdict, color):
    drawn = draw_objects(IMAGE, [thing(novel, verdict=verdict)])
    edge = has(drawn, color)[41:70, 20]
    # Dashes of a missed object leave gaps.
    assert edge.any() and edge.all() == (verdict != MISSED)
    for other in COLORS:
        assert has(drawn, other).any() == (other == color)
    # Inside, and away from the box and its label, nothing changes.
    np.testing.assert_array_equal(drawn[55, 40], IMAGE[55, 40])
    np.testing.assert_array_equal(drawn[:, 110:], IMAGE[:, 110:])
    assert (IMAGE == 128).all()


def test_colors_are_far_apart():
    pairs = [
        np.abs(np.subtract(a, b)).sum()
        for i, a in enumerate(COLORS)
        for b in COLORS[:i]
    ]
    assert min(pairs) > 150


def test_masks_are_light_with_an_edge():
    mask = np.zeros(IMAGE.shape[:2], bool)
    mask[50:60, 30:50] = True
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    drawn = draw_objects(IMAGE, [thing(mask=mask)])
    wanted = np.round(128 + 0.15 * (np.array(BASE_COLOR) - 128))
    np.testing.assert_array_equal(drawn[55, 40], wanted)
    np.testing.assert_array_equal(drawn[50, 40], BASE_COLOR)
    np.testing.assert_array_equal(drawn[65, 40], (128, 128, 128))
    np.testing.assert_array_equal(
        draw_objects(IMAGE, [thing(mask=code)]), drawn
    )
    with pytest.raises(ValueError, match=r"'kite' has shape \(4, 4\)"):
        draw_objects(IMAGE, [thing(mask=np.zeros((4, 4), bool))])


def test_the_better_detection_lies_above():
    both = [thing(True, score=0.9), thing(False, score=0.5)]
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
    assert thing(score=0.876).label == 'kite 88 %'
    assert thing(verdict=WRONG).label == '✗ kite'
    assert ShownObject((0, 0, 1, 1), 'knight_(piece)', True).label != (
        'knight_(piece)'
    )
    short = shortened('a very long name', 60, 12)
    assert short.endswith('…') and label_font(12).getlength(short) <= 60
    assert shortened('short', 60, 12) == 'short'


def meet(one, two) -> bool:
    return min(one[2], two[2]) > max(one[0], two[0]) and min(
        one[3], two[3]
    ) > max(one[1], two[1])


@pytest.mark.parametrize('seed', range(20))
def test_labels_cover_no_label_and_stay_inside(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(60, 500, 2).tolist())
    corners = np.sort(rng.uniform(-20, 520, (rng.integers(1, 60), 2, 2)), 1)
    boxes = [tuple(c.reshape(-1)) for c in corners]
    places, taken = LabelPlaces(size, boxes), []
    for box in boxes:
        wanted = rng.uniform(10, 90), rng.uniform(10, 20)
        place = places.place(box, wanted)
        if place is None:
            continue
        assert 0 <= place[0] and place[2] <= size[0]
        assert 0 <= place[1] and place[3] <= size[1]
        assert place[2] - place[0] >= wanted[0]
        assert place[3] - place[1] >= wanted[1]
        assert not any(meet(place, other) for other in taken)
        taken.append(place)
    assert taken


def test_labels_stand_beside_objects_where_there_is_room():
    boxes = [(x, y, x + 50, y + 40) for x in (40, 160) for y in (40, 140)]
    places = LabelPlaces((300, 240), boxes)
    for box in boxes:
        place = places.place(box, (60, 16))
        assert not any(meet(place, other) for other in boxes)
        assert place[3] == box[1] and place[0] == box[0]


def test_a_label_without_room_is_left_out():
    places = LabelPlaces((40, 40), [])
    assert places.place((0, 0, 9, 9), (41, 10)) is None
    found = [places.place((0, 0, 9, 9), (40, 16)) for _ in range(3)]
    assert [place is None for place in found] == [False, False, True]
    # Drawing goes on.
    small = IMAGE[:20, :40]
    assert draw_objects(small, [thing()] * 9).shape == small.shape


def test_legend_shows_all_colors():
    for width in (1200, 240):
        strip = draw_legend(width, 16)
        assert strip.shape[1] == width
        for _, color, _ in LEGEND:
            assert has(strip, color).any()
        assert not (strip[:, -1] != 255).any()
    assert [color for _, color, _ in LEGEND] == list(COLORS)


def at(x: float, name: str, **kwargs) -> ShownObject:
    return ShownObject((x, 0, x + 10, 10), name, False, **kwargs)


def test_overlapping_boxes_are_reduced_whatever_their_names():
    found = [
        at(1, 'b', score=0.5),
        at(0, 'a', score=0.9),
        at(30, 'a', score=0.4),
    ]
    assert distinct(found) == [found[1], found[2]]
    assert distinct(found, 1.0) == [found[1], found[0], found[2]]
    assert distinct([]) == []


def test_judging():
    truth = [at(0, 'a'), at(20, 'b'), at(40, 'c'), at(60, 'a')]
    found = [
        at(1, 'a', score=0.9),
        at(0, 'a', score=0.8),
        at(21, 'c', score=0.7),
        at(80, 'd', score=0.6),
    ]
    judged = judge(found, truth)
    # The second on one object is wrong, as is another name or no object; an
    # object under a wrong name is not missed too.
    assert [(o.name, o.verdict) for o in judged] == [
        ('a', HIT),
        ('a', WRONG),
        ('c', WRONG),
        ('d', WRONG),
        ('c', MISSED),
        ('a', MISSED),
    ]
    assert [o.box[0] for o in judged[-2:]] == [40, 60]
    assert judge([], truth[:1])[0].verdict == MISSED
    assert judge(found[:1], [])[0].verdict == WRONG
    assert judge([at(6, 'a', score=1.0)], truth[:1])[0].verdict == WRONG


def test_from_prediction():
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 1
    code = coco_mask.encode(np.asfortranarray(mask))
    result = dict(
        names=['anchor', 'kite'],
        scores=[0.9, 0.4],
        bboxes=[[0, 1, 2, 3], [1, 1, 4, 4]],
        masks=[dict(size=[4, 6], counts=code['counts'].decode())] * 2,
    )
    first, second = from_prediction(result, ['kite'])
    assert (first.novel, second.novel) == (False, True)
    assert (first.box, second.score) == ((0, 1, 2, 3), 0.4)
    x, y, part = first.crop(mask.shape)
    assert mask.sum() == part.sum()
    np.testing.assert_array_equal(
        mask[y : y + part.shape[0], x : x + part.shape[1]], part
    )
    del result['masks']
    assert from_prediction(result, [])[1].mask is None
