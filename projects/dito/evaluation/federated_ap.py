# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""LVIS average precision with array operations.

Same figures as the lvis package (see the tests), at a fraction of its time:
only pairs of image and category that the ground truth judges are looked at,
a few dozen an image instead of 1,203.
"""

from typing import Iterator, Tuple

import numpy as np

from .federated_matching import box_overlaps, mask_overlaps, match_greedily
from .lvis_detections import LVISDetections
from .lvis_ground_truth import LVISGroundTruth
from .precision_recall import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    PrecisionRecall,
    accumulate,
    empty_result,
)

# Detections evaluated at a time, which bounds the memory: about 250 bytes
# each, and the masks. One category is never divided.
_BLOCK = 100_000

def is_in_sorted(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether each value is in a sorted array.

    Args:
        values (np.ndarray): Shape (N,).
        known (np.ndarray): Sorted, shape (M,).

    Returns:
        np.ndarray: Shape (N,), bool.
    """
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return known[place] == values


def evaluate_federated(
    gt: LVISGroundTruth, detections: LVISDetections, iou_type: str = 'bbox'
) -> PrecisionRecall:
    """Evaluate detections on a federated data set.

    Args:
        gt (LVISGroundTruth): The ground truth.
        detections (LVISDetections): Detections, already limited to the best
            ones of each image.
        iou_type (str): 'bbox' or 'segm'. Defaults to 'bbox'.

    Returns:
        PrecisionRecall: Precision and recall by category.
    """
    order, pair = _judged_order(gt, detections)
    category = pair // gt.num_images
    # Filled in place: of 30,000 categories these are a gigabyte.
    result = empty_result(gt.num_categories)
    for low, high in category_blocks(category, gt.num_categories):
        rows = slice(*np.searchsorted(category, [low, high]))
        _evaluate_block(
            gt,
            detections.take(order[rows]).in_memory(),
            pair[rows],
            (low, high),
            iou_type,
            PrecisionRecall(result.precision[:, :, low:high],
                            result.recall[:, low:high]),
        )
    return result


def _judged_order(
    gt: LVISGroundTruth, detections: LVISDetections
) -> Tuple[np.ndarray, np.ndarray]:
    """Detections that count, by category, image and falling score.

    Returns:
        tuple[np.ndarray]: Their positions and pair keys, each (N,).
    """
    image = gt.to_image_index(detections.image_ids)
    category = gt.to_category_index(detections.category_ids)
    pair = gt.pair_keys(image, category)
    judged = np.flatnonzero(is_in_sorted(pair, gt.judged_keys))
    by_score = np.lexsort((-detections.scores[judged], pair[judged]))
    order = judged[by_score]
    return order, pair[order]


def category_blocks(
    category: np.ndarray, num_categories: int, most: int = 1000
) -> Iterator[Tuple[int, int]]:
    """Ranges of categories with about 100,000 detections each.

    Args:
        category (np.ndarray): Category of each detection, sorted, (N,).
        num_categories (int): Number of categories.
        most (int): Categories of a range at most. Defaults to 1,000.

    Yields:
        tuple[int, int]: First category, and one behind the last.
    """
    ends = np.searchsorted(category, np.arange(num_categories), side='right')
    low = 0
    while low < num_categories:
        before = ends[low - 1] if low else 0
        high = int(np.searchsorted(ends, before + _BLOCK, side='right'))
        high = min(max(high, low + 1), low + most)
        yield low, high
        low = high


def _evaluate_block(
    gt: LVISGroundTruth,
    detections: LVISDetections,
    pair: np.ndarray,
    block: Tuple[int, int],
    iou_type: str,
    out: PrecisionRecall,
) -> None:
    """Evaluate a range of categories.

    Args:
        gt (LVISGroundTruth): The ground truth.
        detections (LVISDetections): Those of the categories, sorted.
        pair (np.ndarray): Their pair keys, (N,).
        block (tuple[int, int]): First category, and one behind the last.
        iou_type (str): 'bbox' or 'segm'.
        out (PrecisionRecall): Of the categories, filled in place.
    """
    areas = detections.areas(iou_type)
    # As in the reference, what has no area is no detection.
    kept = np.flatnonzero(areas > 0)
    if len(kept) < len(areas):
        detections = detections.take(kept)
        pair, areas = pair[kept], areas[kept]
    objects = slice(*np.searchsorted(gt.category_index, block))
    gt_ignored = gt.ignore[objects, None] | _outside(gt.areas[objects])
    edges = _overlaps(gt, detections, pair, objects, iou_type)
    matched, ignored = match_greedily(
        edges, pair, gt_ignored, np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    )
    # An unmatched detection does not count as false if its size is out of
    # range or its category is not annotated everywhere in the image.
    excused = is_in_sorted(pair, gt.not_exhaustive_keys)[:, None]
    excused = excused | _outside(areas)
    ignored |= ~matched & excused[:, :, None]
    num_gt = np.zeros((block[1] - block[0], len(AREA_RANGES)), dtype=np.int64)
    np.add.at(num_gt, gt.category_index[objects] - block[0], ~gt_ignored)
    category = pair // gt.num_images - block[0]
    accumulate(category, detections.scores, matched, ignored, num_gt, out)


def _outside(areas: np.ndarray) -> np.ndarray:
    """Whether areas (N,) lie outside the area ranges: (N, A), bool."""
    areas = areas[:, None]
    return (areas < AREA_RANGES[:, 0]) | (areas > AREA_RANGES[:, 1])


def _overlaps(
    gt: LVISGroundTruth,
    detections: LVISDetections,
    pair: np.ndarray,
    objects: slice,
    iou_type: str,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates: detection, object (from the first one on) and overlap."""
    gt_pair = gt.pair_keys(
        gt.image_index[objects], gt.category_index[objects]
    )
    first = np.searchsorted(gt_pair, pair, side='left')
    last = np.searchsorted(gt_pair, pair, side='right')
    lowest = IOU_THRESHOLDS[0]
    if iou_type == 'bbox':
        boxes = gt.boxes[objects]
        return box_overlaps(detections.boxes, boxes, first, last, lowest)
    start = int(objects.start)
    return mask_overlaps(
        detections.masks or [],
        lambda index: gt.rle(start + index),
        first,
        last,
        lowest,
    )
