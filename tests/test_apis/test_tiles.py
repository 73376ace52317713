# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures cut into tiles: views, the joining rules, and whole calls."""

from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from tiny_api import write_detector, write_film
from torchvision.ops import box_iou

from dito.apis import DITOInferencer, pictures
from dito.apis.tiles import Tiling, View, join_views
from dito.datasets import reduced_image
from dito.models.roi_heads.box_masks import paste_crop, paste_masks
from dito.utils.configs import config_root

SCENES = Path(__file__).parents[1] / 'data/twenty/images'
SIDE = 192
# Two tiles of 100 x 100 pixels with 20 in common, and the whole.
LEFT = View((0, 0, 100, 100), 0, 0)
RIGHT = View((80, 0, 180, 100), 1, 0)
WHOLE = View((0, 0, 180, 100))


@pytest.fixture(scope='module')
def detector() -> DITOInferencer:
    """The shipped detector, with the names of its training."""
    return DITOInferencer(
        config_root() / 'symbols/assets/dito_symbols', device='cpu'
    )


@pytest.fixture(scope='module')
def scenes() -> list[np.ndarray]:
    return [cv2.imread(str(SCENES / f'{n:02}.jpg')) for n in (1, 3, 9, 19)]


@pytest.fixture(scope='module')
def poster(scenes: list[np.ndarray]) -> np.ndarray:
    """Four scenes, two by two."""
    return np.vstack([np.hstack(scenes[:2]), np.hstack(scenes[2:])])


def some(*rows: tuple[list[float], float, int], masks: bool = True) -> Any:
    """Detections: box, score and label of each; masks are all of the box."""
    boxes, scores, labels = zip(*rows, strict=True)
    found = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels),
    )
    if masks:
        found.box_masks = torch.ones(len(rows), 4, 4)
        found.set_metainfo(dict(mask_thr=0.5))
    return found


def rows_of(found: InstanceData) -> list[tuple]:
    return [
        (box, round(score, 3), label)
        for box, score, label in zip(
            found.bboxes.tolist(),
            found.scores.tolist(),
            found.labels.tolist(),
            strict=True,
        )
    ]


# -------------------------------------------------------------------- views


def test_tiles_cover_the_picture() -> None:
    tiles = Tiling(300, 400, 0.2).cut((788, 1400), (788, 1400))
    *views, whole = [view.window for view in tiles.views]
    assert whole == (0, 0, 1400, 788)
    assert {(x2 - x1, y2 - y1) for x1, y1, x2, y2 in views} == {(400, 300)}
    for low, high, end, least in ((0, 2, 1400, 80), (1, 3, 788, 60)):
        spans = sorted({(view[low], view[high]) for view in views})
        assert spans[0][0] == 0 and spans[-1][1] == end
        common = [a[1] - b[0] for a, b in zip(spans, spans[1:], strict=False)]
        # To a pixel, as borders lie between pixels.
        assert min(common) >= least - 1
        assert max(common) - min(common) <= 1
    exact = Tiling(192, 192, 0.0).cut((384, 384), (384, 384)).views
    assert [view.window for view in exact[:-1]] == [
        (x, y, x + 192, y + 192) for y in (0, 192) for x in (0, 192)
    ]
    for side in (192, 500):
        alone = Tiling(side, side, 0.2).cut((192, 100), (192, 100))
        assert [view.window for view in alone.views] == [(0, 0, 100, 192)]


@pytest.mark.parametrize(
    'tile, overlap, message',
    [
        (7, 0.2, 'tile is the side .* 8 or more .*got 7'),
        ((64, 4), 0.2, r'got \(64, 4\)'),
        ((64, 64, 64), 0.2, r'got \(64, 64, 64\)'),
        (64.0, 0.2, 'got 64.0'),
        (True, 0.2, 'got True'),
        ('64', 0.2, "got '64'"),
        (64, 1, 'from 0 to below 1, got 1'),
        (64, -0.1, 'got -0.1'),
        (64, float('nan'), 'got nan'),
        (64, '0.2', "got '0.2'"),
        (8, 0.99, '193 x 193 tiles of 8 x 8 pixels; take larger'),
    ],
)
def test_what_is_no_tile_is_refused(
    detector: DITOInferencer, tile: Any, overlap: Any, message: str
) -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        detector(image, tile=tile, tile_overlap=overlap)
    with pytest.raises(ValueError, match=message):
        detector.encode(image, tile=tile, tile_overlap=overlap)


# -------------------------------------------------------- the joining rules


def test_halves_become_their_union() -> None:
    """Box, score and mask, however the views and boxes come."""
    left = some(([50, 20, 99, 60], 0.6, 1), ([5, 5, 20, 20], 0.9, 1))
    right = some(([0, 22, 60, 64], 0.8, 1), ([0, 70, 30, 90], 0.7, 1))
    wanted = [
        ([5, 5, 20, 20], 0.9, 1),
        ([50, 20, 140, 64], 0.8, 1),
        ([80, 70, 110, 90], 0.7, 1),  # nothing faces it
    ]
    whole = some(([60, 30, 65, 35], 0.5, 1))  # the tiles see it larger
    for turn in (slice(None), slice(None, None, -1)):
        index = torch.arange(2)[turn] if turn.step is None else [1, 0]
        parts = [(LEFT, left[index]), (RIGHT, right[index]), (WHOLE, whole)]
        for order in permutations(parts):
            found = join_views(order, 0.5)
            assert rows_of(found) == wanted
    whole_mask, joined, _ = found.box_masks
    assert isinstance(whole_mask, torch.Tensor) and len(joined) == 2
    # No pixel of these is near the threshold of 0.4.
    shape, threshold = (100, 180), 0.4
    masks = paste_masks(found.box_masks, found.bboxes, shape, threshold)
    masks = masks.numpy()
    halves = torch.tensor([[50.0, 20, 99, 60], [80, 22, 140, 64]])
    expected = paste_masks(torch.ones(2, 4, 4), halves, shape, threshold)
    expected = expected.numpy().any(axis=0)
    np.testing.assert_array_equal(masks[1], expected)
    x, y, crop = paste_crop(joined, found.bboxes[1], shape, threshold)
    drawn = np.zeros_like(expected)
    drawn[y:, x:][: crop.shape[0], : crop.shape[1]] = crop
    np.testing.assert_array_equal(drawn, expected)
    assert masks[2][72:88, 85:105].all() and not masks[2][:69].any()


@pytest.mark.parametrize(
    'second',
    [
        ([0, 22, 60, 64], 0.8, 2),  # another class
        ([0, 50, 60, 95], 0.8, 1),  # a quarter of it lies along the other
        ([25, 22, 60, 64], 0.8, 1),  # no border cuts it
        ([0, 22, 60, 64], 0.1, 1),  # hardly likely
    ],
)
def test_what_does_not_belong_together_stays_apart(second: tuple) -> None:
    left = some(([50, 20, 99, 60], 0.6, 1), masks=False)
    found = join_views([(LEFT, left), (RIGHT, some(second, masks=False))], 0.5)
    box = [second[0][0] + 80, second[0][1], second[0][2] + 80, second[0][3]]
    assert sorted(rows_of(found)) == sorted(
        [([50, 20, 99, 60], 0.6, 1), (box, *second[1:])]
    )
    assert 'box_masks' not in found


def test_each_half_joins_the_one_that_fits_best() -> None:
    left = some(([50, 20, 100, 60], 0.9, 0), masks=False)
    right = some(
        ([0, 0, 60, 70], 0.5, 0), ([0, 20, 40, 60], 0.6, 0), masks=False
    )
    found = join_views([(LEFT, left), (RIGHT, right)], 0.5)
    assert rows_of(found) == [
        ([50, 20, 120, 60], 0.9, 0),
        ([80, 0, 140, 70], 0.5, 0),
    ]


def test_over_four_tiles() -> None:
    views = [
        View((x, y, x + 100, y + 100), x // 80, y // 80)
        for y in (0, 80)
        for x in (0, 80)
    ]
    quarters = [
        some(([60, 70, 100, 100], 0.5, 0)),
        some(([0, 70, 60, 100], 0.6, 0)),
        some(([60, 0, 100, 50], 0.7, 0)),
        some(([0, 0, 60, 50], 0.4, 0)),
    ]
    parts = [*zip(views, quarters, strict=True)]
    for order in (parts, parts[::-1]):
        found = join_views(order, 0.5)
        assert rows_of(found) == [([60, 70, 140, 130], 0.7, 0)]
        assert len(found.box_masks[0]) == 4


def test_pieces_give_way_to_what_is_seen_whole() -> None:
    # Within the overlap: it ends where the left tile does, for that one.
    cut = some(([85, 20, 100, 50], 0.9, 3), masks=False)
    within = some(([4, 20, 45, 50], 0.4, 1), masks=False)
    found = join_views([(LEFT, cut), (RIGHT, within)], 0.5)
    assert rows_of(found) == [([84, 20, 125, 50], 0.4, 1)]
    # Longer than that, and seen in the whole picture.
    long = some(([30, 20, 100, 50], 0.9, 1), masks=False)
    large = some(([25, 18, 150, 52], 0.5, 1), masks=False)
    for parts in permutations([(LEFT, long), (WHOLE, large)]):
        (row,) = rows_of(join_views([*parts, (RIGHT, within[:0])], 0.5))
        assert row == ([25, 18, 150, 52], 0.9, 1)
    # What no tile finds is nothing.
    assert len(join_views([(LEFT, cut[:0]), (RIGHT, cut[:0])], 0.5)) == 0


def test_copies_go_within_a_class() -> None:
    left = some(([82, 20, 98, 50], 0.5, 1), ([82, 20, 97, 50], 0.3, 2))
    right = some(([3, 20, 17, 50], 0.7, 1))
    found = join_views([(LEFT, left), (RIGHT, right)], 0.5)
    assert rows_of(found) == [
        ([83, 20, 97, 50], 0.7, 1),
        ([82, 20, 97, 50], 0.3, 2),
    ]


# -------------------------------------------------------------- whole calls


def test_tiles_on_scenes_give_what_each_gives_alone(
    detector: DITOInferencer, scenes: list[np.ndarray], poster: np.ndarray
) -> None:
    """Names, scores and boxes to the bit; of masks all but edge pixels.

    Shifted places of pixels within a box are rounded otherwise.
    """
    options = dict(score_thr=0.5, tile=SIDE, tile_overlap=0)
    (tiled,) = detector(poster, **options)['predictions']
    wanted = []
    for number, alone in enumerate(
        detector(scenes, score_thr=0.5)['predictions']
    ):
        y, x = SIDE * np.array(divmod(number, 2))
        shift = np.array([x, y, x, y], np.float32)
        for name, score, box, mask in zip(
            *(alone[k] for k in ('names', 'scores', 'bboxes', 'masks')),
            strict=True,
        ):
            box = np.array(box, np.float32) + shift
            wanted.append((-score, name, box.tolist(), mask, (x, y)))
    wanted.sort(key=lambda row: row[:2])
    assert len(wanted) > 10
    assert [row[1] for row in wanted] == tiled['names']
    assert [-row[0] for row in wanted] == tiled['scores']
    assert [row[2] for row in wanted] == tiled['bboxes']
    for (*_, alone, (x, y)), mask in zip(wanted, tiled['masks'], strict=True):
        assert mask['size'] == [2 * SIDE, 2 * SIDE]
        own, pixels = coco_mask.decode(alone), coco_mask.decode(mask)
        assert pixels.sum() == pixels[y : y + SIDE, x : x + SIDE].sum()
        differ = own != pixels[y : y + SIDE, x : x + SIDE]
        assert differ.sum() <= 0.01 * own.sum() + 2


@pytest.mark.parametrize('number, name', [(9, 'gear'), (19, 'airplane')])
def test_an_object_on_a_seam_comes_once(
    detector: DITOInferencer, number: int, name: str
) -> None:
    scene = cv2.imread(str(SCENES / f'{number:02}.jpg'))
    (alone,) = detector(scene, score_thr=0.85)['predictions']
    box = np.array(alone['bboxes'][alone['names'].index(name)])
    picture = np.full((SIDE, 2 * SIDE, 3), 255, np.uint8)
    shift = SIDE - int(box[[0, 2]].mean())
    picture[:, shift : shift + SIDE] = scene
    (found,) = detector(
        picture, score_thr=0.5, tile=SIDE, tile_overlap=0, return_vis=True
    )['predictions']
    rows = [i for i, n in enumerate(found['names']) if n == name]
    assert len(rows) == 1
    there = torch.tensor([found['bboxes'][rows[0]]])
    want = torch.tensor(box + [shift, 0, shift, 0])[None].float()
    assert box_iou(there, want) > 0.5
    mask = coco_mask.decode(found['masks'][rows[0]])
    both = [mask[:, :SIDE].sum(), mask[:, SIDE:].sum()]
    assert min(both) > 0.25 * mask.sum() > 0


def test_scenes_batches_and_films_of_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = write_detector(tmp_path)
    detector = DITOInferencer(parts['weights'])
    picture = np.random.default_rng(0).integers(0, 255, (120, 150, 3), 'uint8')
    path, broken = tmp_path / 'noise.png', tmp_path / 'broken.png'
    cv2.imwrite(str(path), picture)
    broken.write_bytes(b'no picture')
    small = parts['images'][0]
    options = dict(tile=(72, 90), score_thr=0.3)
    found = detector([path, broken, small], on_error='collect', **options)
    assert [e is None for e in found['errors']] == [True, False, True]
    wanted, _, alone = found['predictions']
    assert alone == detector(small)['predictions'][0]
    assert wanted == detector(picture, **options)['predictions'][0]
    assert {tuple(mask['size']) for mask in wanted['masks']} == {(120, 150)}
    assert np.max(wanted['bboxes']) > 100
    # Tiles of several pictures share batches.
    batched = detector([path, small, path], batch_size=4, **options)
    for one, same in zip(
        batched['predictions'], (wanted, alone, wanted), strict=True
    ):
        assert len(one['names']) == len(same['names'])
        np.testing.assert_allclose(one['scores'], same['scores'], atol=1e-4)
    scene = detector.encode(path, tile=(72, 90))
    assert scene.find() == wanted
    assert scene.path == str(path) and scene.shape == (120, 150)
    assert len(scene) > 100 and '5 views' in repr(scene)
    boxes = scene.without_maps().find(masks=False)
    assert boxes['names'] == wanted['names'] and 'masks' not in boxes
    assert set(scene.objects(masks=False)['names']) == {'object'}
    for refused in (
        lambda: scene.save(tmp_path / 'scene.safetensors'),
        lambda: detector.embed(examples={'it': (scene, (0, 0, 50, 50))}),
    ):
        with pytest.raises(ValueError, match='scene of tiles is asked for'):
            refused()
    # A very large picture is read whole for its tiles, up to a limit; beyond
    # it is reduced, and tiles stand where they stood.
    monkeypatch.setattr(reduced_image, 'FULL_PIXELS', picture.size // 12)
    assert detector(path, **options)['predictions'] == [wanted]
    monkeypatch.setattr(pictures, 'WHOLE_PIXELS', picture.size // 12)
    (reduced,) = detector(path, **options)['predictions']
    assert reduced != wanted and np.max(reduced['bboxes']) > 100
    assert {tuple(mask['size']) for mask in reduced['masks']} == {(120, 150)}
    write_film(tmp_path / 'clip.avi', 2, 80)
    frames = detector.stream(
        tmp_path / 'clip.avi', out_dir=tmp_path / 'out', **options
    )
    for number, frame in enumerate(frames):
        assert frame.frame == number and frame.shape == (80, 120)
        assert 'masks' in frame.result and frame.drawn is not None
    assert number == 1
