# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Packed detections are the same as given, and cost little memory."""

import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from dito.evaluation.detection_metric import pack_predictions
from dito.evaluation.detections import LVISDetections, PackedMasks


def random_image(rng, number):
    boxes = rng.random((number, 4)) * 50
    boxes[:, 2:] += boxes[:, :2]
    return dict(
        scores=rng.random(number).astype(np.float32),
        bboxes=boxes,
        labels=rng.integers(0, 3, number),
        masks=[
            dict(size=[9 + k, 8], counts=rng.bytes(rng.integers(1, 9)))
            for k in range(number)
        ],
    )


def pack(image_id, image, **options):
    number = len(image['scores'])
    options.setdefault('masked', np.ones(number, bool))
    return pack_predictions(
        image_id, image, image['labels'], np.arange(number), **options
    )


@pytest.mark.parametrize('protocol', [None, 2, pickle.HIGHEST_PROTOCOL])
def test_joined_and_selected(protocol):
    """Between processes the packed images are pickled."""
    rng = np.random.default_rng(0)
    images = {i: random_image(rng, n) for i, n in ((5, 6), (3, 0), (8, 4))}
    entries = [pack(i, image) for i, image in images.items()]
    if protocol is not None:
        entries = pickle.loads(pickle.dumps(entries, protocol))
    assert [(e.image_id, e.count, e.seen) for e in entries] == [
        (5, 6, 6),
        (3, 0, 0),
        (8, 4, 4),
    ]
    assert entries[1].lowest == np.inf
    assert entries[0].lowest == images[5]['scores'].min()
    joined = LVISDetections.join([entry.kept for entry in entries])
    boxes = np.concatenate([image['bboxes'] for image in images.values()])
    boxes[:, 2:] -= boxes[:, :2]
    masks = [mask for image in images.values() for mask in image['masks']]
    labels = np.concatenate([image['labels'] for image in images.values()])
    scores = np.concatenate([image['scores'] for image in images.values()])
    order = np.random.default_rng(0).permutation(len(boxes))
    for part, index in (
        (joined, np.arange(len(boxes))),
        (joined.take(order[:7]).take(np.array([4, 0])), order[[4, 0]]),
    ):
        np.testing.assert_array_equal(part.boxes, boxes[index])
        np.testing.assert_array_equal(part.category_ids, labels[index])
        np.testing.assert_array_equal(part.scores, scores[index])
        assert part.masks[:] == [masks[i] for i in index]
        assert part.masks[1:2] == [masks[index[1]]]


def test_masks_that_do_not_count_and_no_masks():
    image = random_image(np.random.default_rng(1), 3)
    masked = np.array([True, False, True])
    entry = pack(1, image, masked=masked)
    first, second, third = entry.kept.masks[:]
    assert (first, third) == (image['masks'][0], image['masks'][2])
    assert second == dict(size=[0, 0], counts=b'')
    plain = pack(1, image, masked=None).kept
    assert plain.masks is None
    # What has no masks has none together with others.
    assert LVISDetections.join([entry.kept, plain]).masks is None


def test_nothing_at_all():
    joined = LVISDetections.join([])
    assert len(joined) == len(joined.masks) == 0
    assert joined.boxes.shape == (0, 4) and joined.masks[:] == []
    assert joined.limit_per_image(3).to_results('segm') == []


def test_run_lengths_as_text_and_many_bytes():
    masks = [dict(size=[4, 5], counts='05'), dict(size=[4, 5], counts=b'14')]
    packed = PackedMasks.join([PackedMasks.pack(masks)] * 3)
    assert [m['counts'] for m in packed[:]] == [b'05', b'14'] * 3
    with pytest.raises(TypeError, match='bytes'):
        PackedMasks.pack([dict(size=[4, 5], counts=[0, 5])])


def test_memory_while_detections_arrive():
    image = random_image(np.random.default_rng(2), 300)
    pack(0, image)
    tracemalloc.start()
    entries = [pack(i, image) for i in range(1, 101)]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # As arrays and RLE dicts these 30,000 are above 10 MB. Six million with
    # masks of 150 bytes have to fit into 4 GB, with their copy in one piece.
    assert held < 120 * sum(entry.count for entry in entries)
    alone = replace(entries[0], truth=None)
    assert len(pickle.dumps(alone, 2)) < 200 * 300
