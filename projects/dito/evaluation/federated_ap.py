# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""LVIS average precision with array operations.

Same figures as the lvis package (see the tests), at a fraction of its time:
only pairs of image and category that the ground truth judges are looked at,
a few dozen an image instead of 1,203.
"""

from dataclasses import dataclass
from typing import Tuple

import numpy as np

from .federated_matching import box_overlaps, mask_overlaps, match_greedily
from .lvis_detections import LVISDetections
from .lvis_ground_truth import LVISGroundTruth

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
    detections, pair, areas = _judged_detections(gt, detections, iou_type)
    gt_ignored = gt.ignore[:, None] | _outside(gt.areas)
    edges = _overlaps(gt, detections, pair, iou_type)
    matched, ignored = match_greedily(
        edges, pair, gt_ignored, np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    )
    # An unmatched detection does not count as false if its size is out of
    # range or its category is not annotated everywhere in the image.
    excused = is_in_sorted(pair, gt.not_exhaustive_keys)[:, None]
    excused = excused | _outside(areas)
    ignored |= ~matched & excused[:, :, None]
    return _accumulate(gt, detections, gt_ignored, matched, ignored)


def _judged_detections(
    gt: LVISGroundTruth, detections: LVISDetections, iou_type: str
) -> Tuple[LVISDetections, np.ndarray, np.ndarray]:
    """Detections that count, by category, image and falling score.

    Returns:
        tuple: The detections, their pair keys and areas, each of shape (N,).
    """
    image = gt.to_image_index(detections.image_ids)
    category = gt.to_category_index(detections.category_ids)
    pair = gt.pair_keys(image, category)
    order = np.lexsort((-detections.scores, pair))
    order = order[is_in_sorted(pair[order], gt.judged_keys)]
    detections = detections.take(order)
    areas = detections.areas(iou_type)
    # As in the reference, what has no area is no detection.
    kept = np.flatnonzero(areas > 0)
    return detections.take(kept), pair[order][kept], areas[kept]


def _outside(areas: np.ndarray) -> np.ndarray:
    """Whether areas (N,) lie outside the area ranges: (N, A), bool."""
    areas = areas[:, None]
    return (areas < AREA_RANGES[:, 0]) | (areas > AREA_RANGES[:, 1])


def _overlaps(
    gt: LVISGroundTruth,
    detections: LVISDetections,
    pair: np.ndarray,
    iou_type: str,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates: detection, object and overlap."""
    gt_pair = gt.pair_keys(gt.image_index, gt.category_index)
    first = np.searchsorted(gt_pair, pair, side='left')
    last = np.searchsorted(gt_pair, pair, side='right')
    lowest = IOU_THRESHOLDS[0]
    if iou_type == 'bbox':
        return box_overlaps(detections.boxes, gt.boxes, first, last, lowest)
    return mask_overlaps(detections.masks or [], gt.rle, first, last, lowest)


def _accumulate(
    gt: LVISGroundTruth,
    detections: LVISDetections,
    gt_ignored: np.ndarray,
    matched: np.ndarray,
    ignored: np.ndarray,
) -> PrecisionRecall:
    """Precision over recall for every category and area range."""
    num_areas = len(AREA_RANGES)
    shape = (len(IOU_THRESHOLDS), gt.num_categories, num_areas)
    recall = np.full(shape, -1.0)
    precision = np.full(
        (shape[0], len(RECALL_THRESHOLDS), *shape[1:]), -1.0
    )
    num_gt = np.zeros((gt.num_categories, num_areas), dtype=np.int64)
    np.add.at(num_gt, gt.category_index, ~gt_ignored)
    category = gt.to_category_index(detections.category_ids)
    edges = np.searchsorted(category, np.arange(gt.num_categories + 1))
    for k in np.flatnonzero(num_gt.any(axis=1)):
        part = slice(edges[k], edges[k + 1])
        order = np.argsort(-detections.scores[part], kind='stable')
        counts = ~ignored[part][order]
        hit = matched[part][order]
        for a in np.flatnonzero(num_gt[k]):
            precision[:, :, k, a], recall[:, k, a] = _precision_at_recall(
                hit[:, a] & counts[:, a],
                ~hit[:, a] & counts[:, a],
                num_gt[k, a],
            )
    return PrecisionRecall(precision, recall)


def _precision_at_recall(
    true: np.ndarray, false: np.ndarray, num_gt: int
) -> Tuple[np.ndarray, np.ndarray]:
    """Interpolate the precision of one category.

    Args:
        true (np.ndarray): True positives by falling score, (N, T), bool.
        false (np.ndarray): False positives, (N, T), bool.
        num_gt (int): Number of objects.

    Returns:
        tuple[np.ndarray]: Precision at the recall levels, (T, R), and the
        largest recall, (T,).
    """
    num_thresholds = true.shape[1]
    at_recall = np.zeros((num_thresholds, len(RECALL_THRESHOLDS)))
    if not len(true):
        return at_recall, np.zeros(num_thresholds)
    tp = np.cumsum(true, axis=0, dtype=np.float64)
    fp = np.cumsum(false, axis=0, dtype=np.float64)
    recall = tp / num_gt
    precision = tp / (fp + tp + np.spacing(1))
    # The best precision at this recall or any larger one.
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    for t in range(num_thresholds):
        place = np.searchsorted(recall[:, t], RECALL_THRESHOLDS, side='left')
        reached = place < len(recall)
        at_recall[t, reached] = precision[place[reached], t]
    return at_recall, recall[-1]
