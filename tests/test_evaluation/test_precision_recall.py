# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The curves of all categories at once against a loop over each."""

import numpy as np
import pytest

from dito.evaluation.precision_recall import (
    RECALL_THRESHOLDS,
    accumulate,
    empty_result,
)


def naive(scores, hit, counts, num_gt):
    """One category, one threshold, step by step."""
    order = np.argsort(-scores, kind='stable')
    tp = fp = 0
    recalls, precisions = [], []
    for i in order:
        tp += bool(hit[i] and counts[i])
        fp += bool(not hit[i] and counts[i])
        recalls.append(tp / num_gt)
        precisions.append(tp / (fp + tp + np.spacing(1)))
    curve = [
        max((p for r, p in zip(recalls, precisions, strict=True)
             if r >= level), default=0.0)
        for level in RECALL_THRESHOLDS
    ]
    return curve, (recalls[-1] if recalls else 0.0)


@pytest.mark.parametrize('seed', range(4))
def test_equal_to_a_loop(seed):
    rng = np.random.default_rng(seed)
    categories, number, areas, thresholds = 7, 120, 2, 3
    category = np.sort(rng.integers(0, categories - 1, number))
    category[category == 2] = 3
    scores = rng.integers(0, 20, number) / 20
    shape = (number, areas, thresholds)
    matched = rng.random(shape) < 0.3
    ignored = rng.random(shape) < 0.2
    num_gt = rng.integers(0, 30, (categories, areas))
    num_gt[3] = 100
    found = empty_result(categories, areas, thresholds)
    accumulate(category, scores, matched, ignored, num_gt, found)
    precision, recall = found.precision, found.recall
    for k in range(categories):
        own = category == k
        for a in range(areas):
            for t in range(thresholds):
                if not num_gt[k, a]:
                    assert (precision[t, :, k, a] == -1).all()
                    assert recall[t, k, a] == -1
                    continue
                curve, most = naive(
                    scores[own],
                    matched[own, a, t],
                    ~ignored[own, a, t],
                    num_gt[k, a],
                )
                np.testing.assert_array_equal(precision[t, :, k, a], curve)
                assert recall[t, k, a] == most


def test_no_detections_and_no_objects():
    none = np.zeros((0, 1, 2), bool)
    empty = np.zeros(0, np.int64)
    found = empty_result(2, 1, 2)
    accumulate(
        empty, np.zeros(0), none, none, np.array([[3], [0]]), found
    )
    precision, recall = found.precision, found.recall
    assert (precision[:, :, 0] == 0).all() and (recall[:, 0] == 0).all()
    assert (precision[:, :, 1] == -1).all() and (recall[:, 1] == -1).all()
