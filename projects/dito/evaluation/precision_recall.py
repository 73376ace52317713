# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Precision at 101 levels of recall, for all categories in one go."""

from dataclasses import dataclass
from typing import Tuple

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0, 1, 101)
AREA_NAMES = ('all', 'small', 'medium', 'large')
AREA_RANGES = np.array(
    [[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]]
)


@dataclass(frozen=True)
class PrecisionRecall:
    """Accumulated evaluation; -1 where a category has no object.

    Args:
        precision (np.ndarray): Interpolated precision, shape (T, R, K, A):
            10 overlap thresholds, 101 recall levels, categories in order of
            id, 4 area ranges. float64.
        recall (np.ndarray): Largest recall, shape (T, K, A).
    """

    precision: np.ndarray
    recall: np.ndarray


def empty_result(
    num_categories: int,
    num_areas: int = len(AREA_RANGES),
    num_thresholds: int = len(IOU_THRESHOLDS),
) -> PrecisionRecall:
    """-1 for all categories, to be filled by :func:`accumulate`.

    Args:
        num_categories (int): K of them.
        num_areas (int): A area ranges.
        num_thresholds (int): T overlap thresholds.

    Returns:
        PrecisionRecall: Of K categories.
    """
    shape = (num_thresholds, num_categories, num_areas)
    precision = (shape[0], len(RECALL_THRESHOLDS), *shape[1:])
    return PrecisionRecall(np.full(precision, -1.0), np.full(shape, -1.0))


def accumulate(
    category: np.ndarray,
    scores: np.ndarray,
    matched: np.ndarray,
    ignored: np.ndarray,
    num_gt: np.ndarray,
    out: PrecisionRecall,
) -> None:
    """Precision over recall for categories and area ranges.

    Args:
        category (np.ndarray): Category of each detection, sorted, (N,).
        scores (np.ndarray): Shape (N,).
        matched (np.ndarray): Detections with an object, (N, A, T), bool.
        ignored (np.ndarray): Detections that do not count, (N, A, T), bool.
        num_gt (np.ndarray): Number of objects that count, (K, A).
        out (PrecisionRecall): Of these categories; filled in place where
            there are objects.
    """
    num_areas, num_thresholds = matched.shape[1:]
    order = np.lexsort((-scores, category))
    category = category[order]
    for a in range(num_areas):
        has_objects = num_gt[category, a] > 0
        some = np.flatnonzero(num_gt[:, a])
        needed = _needed_hits(num_gt[some, a])
        for t in range(num_thresholds):
            counts = ~ignored[order, a, t]
            hit = matched[order, a, t] & counts & has_objects
            curve, found = _curves(category, hit, counts & ~hit, some, needed)
            out.precision[t, :, some, a] = curve
            out.recall[t, some, a] = found / num_gt[some, a]


def _needed_hits(num_gt: np.ndarray) -> np.ndarray:
    """How many objects must be found to reach each recall level: (K, R).

    Compared as fractions in floating point, as the reference does.
    """
    unique, place = np.unique(num_gt, return_inverse=True)
    rows = [
        np.searchsorted(np.arange(n + 1) / n, RECALL_THRESHOLDS)
        for n in unique
    ]
    return np.array(rows, np.int64).reshape(-1, len(RECALL_THRESHOLDS))[place]


def _curves(
    category: np.ndarray,
    hit: np.ndarray,
    false: np.ndarray,
    some: np.ndarray,
    needed: np.ndarray,
) -> Tuple[np.ndarray, np.ndarray]:
    """Interpolated precision at one overlap threshold and area range.

    Precision rises only where an object is found, so only these places are
    looked at: the precision at a recall level is the largest one from there
    on.

    Args:
        category (np.ndarray): Sorted; by falling score within one, (N,).
        hit (np.ndarray): True positives, (N,), bool.
        false (np.ndarray): False positives, (N,), bool.
        some (np.ndarray): Categories with objects, sorted, (S,).
        needed (np.ndarray): Hits needed for each recall level, (S, R).

    Returns:
        tuple[np.ndarray]: Precision (S, R), and the number of objects found
        by category, (S,).
    """
    if not len(some):
        return np.zeros(needed.shape), np.zeros(0, np.int64)
    place = np.flatnonzero(hit)
    of_hit = category[place]
    first = np.searchsorted(of_hit, some, side='left')
    found = np.searchsorted(of_hit, some, side='right') - first
    # False positives before each hit, those of earlier categories taken off.
    false_before = np.concatenate([[0], np.cumsum(false)])
    start = np.searchsorted(category, of_hit, side='left')
    fp = (false_before[place] - false_before[start]).astype(np.float64)
    rank = np.arange(len(place)) - np.searchsorted(of_hit, of_hit)
    tp = (rank + 1).astype(np.float64)
    # A last zero, for levels behind the last hit.
    value = np.concatenate([tp / (fp + tp + np.spacing(1)), [0.0]])
    begin = first[:, None] + np.minimum(
        np.maximum(needed - 1, 0), found[:, None]
    )
    best = np.maximum.reduceat(value, begin.ravel()).reshape(begin.shape)
    best[np.maximum(needed, 1) > found[:, None]] = 0.0
    best = np.maximum.accumulate(best[:, ::-1], axis=1)[:, ::-1]
    return best, found
