# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Average precision step by step, as the protocols are written down.

Nothing of the package and of its libraries but the decoding of masks: one
detection after the other, so slow that only small sets can be evaluated.
"""

import numpy as np
import pycocotools.mask as mask_utils

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RANGES = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))


def shape_of(entry, iou_type, size):
    """A box x, y, w, h, or a mask as an array of 0 and 1."""
    if iou_type == 'bbox':
        return entry['bbox']
    mask = entry['segmentation']
    if isinstance(mask, list):
        mask = mask_utils.merge(mask_utils.frPyObjects(mask, *size))
    return mask_utils.decode(mask)


def area_of(shape):
    if isinstance(shape, list):
        return shape[2] * shape[3]
    return int(shape.sum())


def overlap(found, true, crowd):
    """Intersection over union, or over the detection for a crowd."""
    if isinstance(found, list):
        x, y, w, h = found
        a, b, c, d = true
        width = min(x + w, a + c) - max(x, a)
        inter = max(width, 0) * max(min(y + h, b + d) - max(y, b), 0)
    else:
        inter = int((found & true).sum())
    whole = area_of(found) + (0 if crowd else area_of(true) - inter)
    return inter / whole if inter else 0.0


def match(overlaps, ignored, crowd, threshold):
    """Object of each detection, best score first; -1 without one."""
    taken, chosen = set(), []
    order = sorted(range(len(ignored)), key=lambda g: ignored[g])
    for row in overlaps:
        best, least = -1, min(threshold, 1 - 1e-10)
        for g in order:
            if g in taken and not crowd[g]:
                continue
            if best > -1 and not ignored[best] and ignored[g]:
                break
            if row[g] >= least:
                best, least = g, row[g]
        taken.add(best)
        chosen.append(best)
    return chosen


def curve(scores, hit, counts, num_gt):
    """Precision at 101 levels of recall, and the largest recall."""
    tp = fp = 0
    recalls, precisions = [], []
    for i in np.argsort(-np.array(scores), kind='stable'):
        tp += bool(hit[i] and counts[i])
        fp += bool(not hit[i] and counts[i])
        recalls.append(tp / num_gt)
        precisions.append(tp / (fp + tp + np.spacing(1)))
    points = [
        max(
            (
                p
                for r, p in zip(recalls, precisions, strict=True)
                if r >= level
            ),
            default=0.0,
        )
        for level in np.linspace(0, 1, 101)
    ]
    return points, (recalls[-1] if recalls else 0.0)


class Pair:
    """Objects and detections of one category in one image."""

    def __init__(self, image, objects, results, iou_type, federated, limit):
        size = image['height'], image['width']
        results = sorted(results, key=lambda r: -r['score'])[:limit]
        true = [shape_of(o, iou_type, size) for o in objects]
        found = [(r['score'], shape_of(r, iou_type, size)) for r in results]
        flag = 'ignore' if federated else 'iscrowd'
        self.flagged = [bool(o.get(flag)) for o in objects]
        self.crowd = [f and not federated for f in self.flagged]
        self.gt_areas = [o['area'] for o in objects]
        if federated:
            found = [(s, shape) for s, shape in found if area_of(shape)]
        self.scores = [score for score, _ in found]
        self.areas = [area_of(shape) for _, shape in found]
        self.overlaps = [
            [
                overlap(shape, t, c)
                for t, c in zip(true, self.crowd, strict=True)
            ]
            for _, shape in found
        ]

    def judge(self, low, high, threshold, partial):
        """Whether each detection hits, whether it counts; objects."""
        ignored = [
            f or not low <= a <= high
            for f, a in zip(self.flagged, self.gt_areas, strict=True)
        ]
        chosen = match(self.overlaps, ignored, self.crowd, threshold)
        counts = [
            not ignored[g] if g > -1 else low <= a <= high and not partial
            for g, a in zip(chosen, self.areas, strict=True)
        ]
        return [g > -1 for g in chosen], counts, ignored.count(False)


def naive_precision(
    content,
    results,
    iou_type,
    federated=True,
    limit=None,
    thresholds=THRESHOLDS,
    ranges=RANGES,
):
    """Precision (T, 101, K, A) and recall (T, K, A) in order of id."""
    categories = sorted(c['id'] for c in content['categories'])
    shape = len(thresholds), len(categories), len(ranges)
    precision = np.full((shape[0], 101, *shape[1:]), -1.0)
    recall = np.full(shape, -1.0)
    for k, category in enumerate(categories):
        pairs = []
        for image in sorted(content['images'], key=lambda i: i['id']):
            here = (image['id'], category)
            objects, found = (
                [
                    e
                    for e in entries
                    if (e['image_id'], e['category_id']) == here
                ]
                for entries in (content['annotations'], results)
            )
            partial = False
            if federated:
                objects = [o for o in objects if o['area'] > 0]
                partial = category in image['not_exhaustive_category_ids']
                if not objects and category not in image['neg_category_ids']:
                    continue
            pairs.append(
                (
                    Pair(image, objects, found, iou_type, federated, limit),
                    partial,
                )
            )
        scores = [score for pair, _ in pairs for score in pair.scores]
        for a, (low, high) in enumerate(ranges):
            for t, threshold in enumerate(thresholds):
                parts = [
                    pair.judge(low, high, threshold, partial)
                    for pair, partial in pairs
                ]
                hit, counts = (sum((p[i] for p in parts), []) for i in (0, 1))
                number = sum(p[2] for p in parts)
                if number:
                    precision[t, :, k, a], recall[t, k, a] = curve(
                        scores, hit, counts, number
                    )
    return precision, recall
