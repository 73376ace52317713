# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Greedy matching of detections to objects, all images at once.

The reference loops over images, categories, area ranges, thresholds,
detections and objects in Python. Here only overlaps of at least the lowest
threshold are kept as a list of edges, and the k-th best detection of every
image and category is matched in one step, for all area ranges and thresholds
together: the number of steps is the number of candidates in the most crowded
pair, not the number of detections.
"""

from typing import List, Tuple

import numpy as np
import pycocotools.mask as mask_utils

# Bounds the memory of box overlaps: about 100 bytes an edge.
_EDGES_PER_CHUNK = 1_000_000
# Overlaps of candidates lie in [.5, 1]; scaled by a power of two (exact in
# floating point) those with ignored objects stay below all the others.
_IGNORED_SCALE = 2.0**-5


def box_overlaps(
    boxes: np.ndarray,
    gt_boxes: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    min_iou: float,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlaps of each detection with its own range of objects.

    Args:
        boxes (np.ndarray): x, y, w, h of detections, shape (N, 4).
        gt_boxes (np.ndarray): The same of objects, shape (G, 4).
        first (np.ndarray): First object of each detection, shape (N,).
        last (np.ndarray): One behind the last object, shape (N,).
        min_iou (float): Smallest overlap kept.

    Returns:
        tuple[np.ndarray]: Detection, object and overlap of each edge, in
        order of detection and object.
    """
    counts = last - first
    ends = np.cumsum(counts)
    parts = []
    start = 0
    while start < len(boxes):
        before = ends[start - 1] if start else 0
        stop = np.searchsorted(ends, before + _EDGES_PER_CHUNK, side='right')
        stop = max(int(stop), start + 1)
        number = counts[start:stop]
        det = np.repeat(np.arange(start, stop), number)
        offset = np.repeat(
            first[start:stop] - np.cumsum(number) + number, number
        )
        obj = np.arange(len(det)) + offset
        iou = _box_iou(boxes[det], gt_boxes[obj])
        kept = iou >= min_iou
        parts.append((det[kept], obj[kept], iou[kept]))
        start = stop
    return _join_edges(parts)


def _box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Overlap of boxes row by row, in COCO's order of operations."""
    left = np.maximum(boxes[:, :2], others[:, :2])
    right = np.minimum(
        boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:]
    )
    size = np.maximum(right - left, 0)
    inter = size[:, 0] * size[:, 1]
    areas = boxes[:, 2] * boxes[:, 3] + others[:, 2] * others[:, 3]
    union = areas - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=inter > 0)


def mask_overlaps(
    masks: List[dict],
    gt_rle,
    first: np.ndarray,
    last: np.ndarray,
    min_iou: float,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for masks.

    Args:
        masks (list[dict]): RLE of N detections, those of one image and
            category next to each other.
        gt_rle (Callable): Gives the RLE of an object by its position.
        first (np.ndarray): First object of each detection, shape (N,).
        last (np.ndarray): One behind the last object, shape (N,).
        min_iou (float): Smallest overlap kept.

    Returns:
        tuple[np.ndarray]: Detection, object and overlap of each edge.
    """
    parts = []
    # Detections with objects, in runs that share the same range of them.
    some = np.flatnonzero(last > first)
    breaks = np.flatnonzero(np.diff(first[some])) + 1
    for run in np.split(some, breaks) if len(some) else []:
        low, high = int(first[run[0]]), int(last[run[0]])
        overlaps = mask_utils.iou(
            [masks[i] for i in run.tolist()],
            [gt_rle(i) for i in range(low, high)],
            [0] * (high - low),
        )
        row, column = np.nonzero(overlaps >= min_iou)
        parts.append((run[row], column + low, overlaps[row, column]))
    return _join_edges(parts)


def _join_edges(parts: list) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put chunks of edges together."""
    if not parts:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, np.zeros(0)
    columns = zip(*parts, strict=True)
    det, obj, iou = (np.concatenate(column) for column in columns)
    return det, obj, iou


def match_greedily(
    edges: Tuple[np.ndarray, np.ndarray, np.ndarray],
    pair: np.ndarray,
    gt_ignored: np.ndarray,
    thresholds: np.ndarray,
) -> Tuple[np.ndarray, np.ndarray]:
    """Give each detection the best free object, better scores first.

    Of the free objects above the threshold a detection takes the one with
    the largest overlap, an ignored one only if there is no other, and of
    equal ones the last.

    Args:
        edges (tuple[np.ndarray]): Detection, object and overlap of
            candidates, in order of detection and object.
        pair (np.ndarray): Image and category of each detection as one
            number, shape (N,); sorted, and best score first within a pair.
        gt_ignored (np.ndarray): Whether an object is ignored in each area
            range, shape (G, A), bool.
        thresholds (np.ndarray): Overlap thresholds, shape (T,).

    Returns:
        tuple[np.ndarray]: Whether a detection has an object, and whether
        that is an ignored one: each of shape (N, A, T), bool.
    """
    det, obj, iou = edges
    num_areas = gt_ignored.shape[1]
    shape = (num_areas, len(thresholds))
    matched = np.zeros((len(pair), *shape), dtype=bool)
    ignored = np.zeros_like(matched)
    taken = np.zeros((len(gt_ignored), *shape), dtype=bool)
    rank = _rank_in_pair(det, pair)
    order = np.argsort(rank, kind='stable')
    rounds = np.searchsorted(rank[order], np.arange(rank.max(initial=-1) + 2))
    area = np.arange(num_areas)[:, None]
    threshold = np.arange(len(thresholds))[None, :]
    for low, high in zip(rounds[:-1], rounds[1:], strict=True):
        step = order[low:high]
        chosen, winner = _best_edges(
            det[step], obj[step], iou[step], taken, gt_ignored, thresholds
        )
        has = winner >= 0
        target = obj[step][np.maximum(winner, 0)]
        matched[chosen] = has
        ignored[chosen] = has & gt_ignored[target, area]
        where_area, where_threshold = np.broadcast_arrays(area, threshold)
        where_area = np.broadcast_to(where_area, has.shape)[has]
        where_threshold = np.broadcast_to(where_threshold, has.shape)[has]
        taken[target[has], where_area, where_threshold] = True
    return matched, ignored


def _rank_in_pair(det: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Rank of each edge's detection among candidates of its pair."""
    candidates, of_edge = np.unique(det, return_inverse=True)
    keys = pair[candidates]
    first = np.searchsorted(keys, keys, side='left')
    return (np.arange(len(candidates)) - first)[of_edge]


def _best_edges(
    det: np.ndarray,
    obj: np.ndarray,
    iou: np.ndarray,
    taken: np.ndarray,
    gt_ignored: np.ndarray,
    thresholds: np.ndarray,
) -> Tuple[np.ndarray, np.ndarray]:
    """Best free edge of each detection, for every area and threshold.

    Args:
        det (np.ndarray): Detection of each of E edges, sorted.
        obj (np.ndarray): Object of each edge, shape (E,).
        iou (np.ndarray): Overlap of each edge, shape (E,).
        taken (np.ndarray): Objects already given away, (G, A, T).
        gt_ignored (np.ndarray): Shape (G, A).
        thresholds (np.ndarray): Shape (T,).

    Returns:
        tuple[np.ndarray]: The detections, shape (S,), and for each the
        position of its best edge or -1, shape (S, A, T).
    """
    starts = np.flatnonzero(np.diff(det, prepend=-1))
    value = iou[:, None] * np.where(gt_ignored[obj], _IGNORED_SCALE, 1.0)
    free = ~taken[obj] & (iou[:, None, None] >= thresholds)
    key = np.where(free, value[:, :, None], -1.0)
    best = np.maximum.reduceat(key, starts, axis=0)
    group = np.repeat(
        np.arange(len(starts)), np.diff(starts, append=len(det))
    )
    is_best = free & (key == best[group])
    position = np.where(is_best, np.arange(len(det))[:, None, None], -1)
    return det[starts], np.maximum.reduceat(position, starts, axis=0)
