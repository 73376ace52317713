# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detections on disk are the same as in memory, and cost less of it."""

import os
import tracemalloc

import numpy as np
import pytest

from dito.evaluation import detection_spool
from dito.evaluation.detection_spool import DetectionSpool

IDS = np.array([10, 20, 30])


def random_image(rng, number, with_masks=True):
    boxes = rng.random((number, 4)) * 50
    boxes[:, 2:] += boxes[:, :2]
    masks = [
        dict(size=[9, 8], counts=rng.bytes(rng.integers(1, 9)))
        for _ in range(number)
    ]
    return dict(
        category=rng.integers(0, 3, number),
        scores=rng.random(number).astype(np.float32),
        boxes=boxes,
        masks=masks if with_masks else None,
    )


def check(loaded, images):
    """Compare everything, as a whole and after a selection."""
    boxes = np.concatenate([image['boxes'] for image in images.values()])
    boxes[:, 2:] -= boxes[:, :2]
    masks = [mask for image in images.values() for mask in image['masks']]
    ids = [[i] * len(image['scores']) for i, image in images.items()]
    category = np.concatenate([i['category'] for i in images.values()])
    order = np.random.default_rng(0).permutation(len(boxes))
    for part, index in (
        (loaded, np.arange(len(boxes))),
        (loaded.take(order[:7]).take(np.array([4, 0])), order[[4, 0]]),
    ):
        np.testing.assert_array_equal(np.asarray(part.boxes), boxes[index])
        assert part.masks[:] == [masks[i] for i in index]
        assert part.masks[1] == masks[index[1]]
        np.testing.assert_array_equal(
            part.image_ids, np.concatenate(ids)[index]
        )
        np.testing.assert_array_equal(
            part.category_ids, IDS[category[index]]
        )


def test_read_back_and_removed(tmp_path):
    rng = np.random.default_rng(0)
    images = {i: random_image(rng, n) for i, n in ((5, 6), (3, 0), (8, 4))}
    spool = DetectionSpool(str(tmp_path))
    entries = [spool.add(i, **image) for i, image in images.items()]
    assert [(e.image_id, e.start, e.count) for e in entries] == [
        (5, 0, 6),
        (3, 6, 0),
        (8, 6, 4),
    ]
    check(spool.load(spool.share(entries), IDS, True), images)
    swapped = spool.load(entries[::-1], IDS)
    assert swapped.image_ids.tolist() == [8] * 4 + [5] * 6
    assert swapped.masks is None
    folder = spool.folder
    assert os.path.isdir(folder)
    spool.clear()
    assert not os.path.exists(folder)
    # A second evaluation starts anew.
    again = spool.add(1, **images[5])
    assert again.start == 0 and again.folder != folder
    del spool
    assert not os.path.exists(again.folder)


@pytest.mark.parametrize('hosts', [['a', 'a'], ['a', 'b']])
def test_two_processes_on_one_or_two_machines(tmp_path, monkeypatch, hosts):
    rng = np.random.default_rng(1)
    images = {i: random_image(rng, n) for i, n in ((0, 4), (1, 5), (2, 3))}
    first, second = (DetectionSpool(str(tmp_path)) for _ in range(2))
    entries = [
        spool.add(i, **images[i])
        for i, spool in ((0, first), (1, second), (2, first))
    ]
    monkeypatch.setattr(detection_spool, 'get_world_size', lambda: 2)
    monkeypatch.setattr(
        detection_spool, 'all_gather_object', lambda name: hosts
    )
    own = iter(first.share([entries[0], entries[2]]))
    other = iter(second.share([entries[1]]))
    shared = [next(own), next(other), next(own)]
    apart = len(set(hosts)) == 2
    assert all((entry.parts is not None) == apart for entry in shared)
    if apart:
        second.clear()
    check(first.load(shared, IDS, True), images)


def test_nothing_at_all():
    spool = DetectionSpool()
    loaded = spool.load(spool.share([]), IDS, True)
    assert len(loaded) == 0 and loaded.masks[:] == []
    assert np.asarray(loaded.boxes).shape == (0, 4)
    spool.clear()


def test_memory_grows_by_little_while_detections_arrive(tmp_path):
    rng = np.random.default_rng(2)
    image = random_image(rng, 300)
    spool = DetectionSpool(str(tmp_path))
    spool.add(0, **image)
    tracemalloc.start()
    entries = [spool.add(i, **image) for i in range(1, 101)]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # 30,000 detections; as arrays and RLE dicts they are above 10 MB.
    assert held < 100_000
    assert sum(entry.count for entry in entries) == 30_000
