# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Average precision by faster-coco-eval, one category at a time.

The library looks at every pair of an image and a category that it is given,
and makes Python objects of about 1 kB of every detection. So it is given one
category at a time, in the images where something of it is judged: no pair is
empty, and the memory is that of the largest category.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from dito.utils.files import collector_paused

from ..datasets.annotations import FREQUENCIES
from .detections import LVISDetections
from .ground_truth import GroundTruth, LVISGroundTruth, is_in_sorted

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_NAMES = ('all', 'small', 'medium', 'large')
AREA_RANGES = np.array(
    [[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]]
)
_RECALL_LEVELS = 101


@dataclass(frozen=True)
class PrecisionRecall:
    """Accumulated evaluation; -1 where a category has no object.

    ``precision`` is interpolated, (T, R, K, A): T overlap thresholds, 101
    recall levels, K categories, A area ranges; ``recall`` is the largest, (T,
    K, A).
    """

    precision: np.ndarray
    recall: np.ndarray


# With the library's own look-up by image and category an evaluation of LVIS's
# size takes twice the time (docs/benchmarks/evaluation.md).
class _Entries(COCO):
    """Objects or detections that the library is to take all, in order."""

    def createIndex(self) -> None:
        """Index the images and categories alone."""
        self.imgs = {image['id']: image for image in self.dataset['images']}
        self.cats = {cat['id']: cat for cat in self.dataset['categories']}

    def getAnnIds(self, *args: Any, **kwargs: Any) -> list[dict]:
        """All entries, instead of their ids."""
        return self.dataset['annotations']

    def loadAnns(self, ids: list[dict]) -> list[dict]:
        """The entries themselves."""
        return ids


def evaluate_lvis(
    gt: LVISGroundTruth,
    detections: LVISDetections,
    iou_type: str = 'bbox',
    max_dets: int = 300,
    *,
    max_dets_per_class: int | None = None,
) -> PrecisionRecall:
    """Evaluate detections by the LVIS protocol, at 4 area ranges.

    The best ``max_dets`` of an image count, over all categories. With
    ``max_dets_per_class`` this is fixed AP (Dave et al., "Evaluating
    Large-Vocabulary Object Detectors: The Devil is in the Details"): no limit
    per image, but one of 10,000 per category over all images, so that
    categories do not compete for a place. ValueError if the type is unknown,
    or if the detections have not the boxes or masks asked for.
    """
    if iou_type not in ('bbox', 'segm'):
        raise ValueError(f"iou_type must be 'bbox' or 'segm', not {iou_type}")
    if iou_type == 'segm' and len(detections) and detections.masks is None:
        raise ValueError(
            "metric 'segm' needs masks, but the detections have none; use "
            "metric='bbox' or a detector with a mask head"
        )
    if iou_type == 'bbox' and detections.boxes is None:
        raise ValueError("metric 'bbox' needs boxes, but there are only masks")
    if max_dets_per_class is None:
        detections = detections.limit_per_image(max_dets)
    else:
        detections = detections.limit_per_category(max_dets_per_class)
    return evaluate(gt, detections, iou_type)


def evaluate(
    gt: GroundTruth,
    detections: LVISDetections,
    iou_type: str,
    categories: Sequence[int] | None = None,
    thresholds: Sequence[float] = IOU_THRESHOLDS,
    areas: np.ndarray = AREA_RANGES,
    max_dets: int | None = None,
) -> PrecisionRecall:
    """Evaluate detections, one category after the other.

    ``categories`` are indices, by default all; ``areas`` the lowest and
    highest, (A, 2); ``max_dets`` the detections of a category that count in an
    image, by default all.
    """
    if categories is None:
        categories = range(gt.num_categories)
    params = dict(
        iouThrs=np.asarray(thresholds),
        areaRng=areas.tolist(),
        areaRngLbl=list(AREA_NAMES[: len(areas)]),
        maxDets=[max_dets or max(len(detections), 1)],
    )
    shape = (len(thresholds), len(categories), len(areas))
    # Filled in place: for 30,000 categories this is a gigabyte.
    result = PrecisionRecall(
        np.full((shape[0], _RECALL_LEVELS, *shape[1:]), -1.0),
        np.full(shape, -1.0),
    )
    order, image, bounds = _judged(gt, detections)
    for place, category in enumerate(categories):
        # Without objects it has no figures, whatever was detected.
        if gt.bounds[category] < gt.bounds[category + 1]:
            rows = slice(*bounds[category : category + 2])
            found = detections.take(order[rows])
            with collector_paused():
                run = _run(gt, category, found, image[rows], iou_type, params)
            precision = np.asarray(run['precision'])
            result.precision[:, :, place] = precision[:, :, 0, :, 0]
            result.recall[:, place] = np.asarray(run['recall'])[:, 0, :, 0]
    return result


def _judged(
    gt: GroundTruth, detections: LVISDetections
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions and image indices of judged detections, ends of categories."""
    image = gt.to_image_index(detections.image_ids)
    category = gt.to_category_index(detections.category_ids)
    judged = np.flatnonzero(gt.judges(image, category))
    # Stable: of equal scores in an image the earlier one is matched first.
    order = judged[np.lexsort((image[judged], category[judged]))]
    bounds = np.searchsorted(category[order], range(gt.num_categories + 1))
    return order, image[order], bounds


def _run(
    gt: GroundTruth,
    category: int,
    detections: LVISDetections,
    image: np.ndarray,
    iou_type: str,
    params: dict[str, Any],
) -> dict[str, Any]:
    """Let the library evaluate one category, which it knows by the id 1."""
    areas = detections.areas(iou_type)
    if not gt.counts_empty:
        some = np.flatnonzero(areas > 0)
        detections = detections.take(some)
        areas, image = areas[some], image[some]
    rows = slice(*gt.bounds[category : category + 2])
    if iou_type == 'bbox':
        key, found, shapes = 'bbox', detections.boxes, gt.boxes[rows].tolist()
        found = found.tolist()
    else:
        key, found = 'segmentation', detections.masks[:]
        shapes = [gt.rle(i) for i in range(rows.start, rows.stop)]
    # The library knows no ignored objects that are no crowd, but those of a
    # size out of every range.
    of_object = np.where(gt.ignore[rows], np.inf, gt.areas[rows])
    objects = _entries(
        gt.image_index[rows], of_object, 'iscrowd', gt.crowd[rows], key, shapes
    )
    images = _images(gt, category, np.union1d(gt.image_index[rows], image))
    results = _entries(image, areas, 'score', detections.scores, key, found)
    truth, found = (
        _Entries(
            dict(
                images=images,
                annotations=entries,
                categories=[dict(id=1, frequency=FREQUENCIES[0])],
            )
        )
        for entries in (objects, results)
    )
    run = COCOeval_faster(
        truth,
        found,
        iou_type,
        lvis_style=True,
        print_function=lambda text: None,
    )
    vars(run.params).update(params)
    run.evaluate()
    run.accumulate()
    return run.eval


def _images(gt: GroundTruth, category: int, index: np.ndarray) -> list[dict]:
    """Images for the library, which has to judge the category in all."""
    partial = is_in_sorted(
        gt.pair_keys(index, np.int64(category)), gt.not_exhaustive_keys
    )
    columns = zip(
        index.tolist(), gt.sizes[index].tolist(), partial.tolist(), strict=True
    )
    return [
        dict(
            id=image,
            height=height,
            width=width,
            neg_category_ids=[1],
            not_exhaustive_category_ids=[1] if some else [],
        )
        for image, (height, width), some in columns
    ]


def _entries(
    image: np.ndarray,
    areas: np.ndarray,
    name: str,
    values: np.ndarray,
    key: str,
    shapes: list,
) -> list[dict]:
    """N objects or detections for the library, numbered from 1."""
    columns = zip(
        image.tolist(), areas.tolist(), values.tolist(), shapes, strict=True
    )
    return [
        {
            'id': number,
            'image_id': image_id,
            'category_id': 1,
            'area': area,
            name: value,
            key: shape,
        }
        for number, (image_id, area, value, shape) in enumerate(columns, 1)
    ]


def _mean_of_valid(values: np.ndarray) -> float:
    """Mean of the entries that are not -1; -1 if there is none."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0


def summarize(
    precision: np.ndarray,
    novel: np.ndarray | None = None,
    thresholds: Sequence[float] = IOU_THRESHOLDS,
) -> dict[str, float]:
    """AP, AP50 and AP75 over categories, in [0, 1], or -1 without objects.

    ``precision`` is of one area range, (T, R, K). With ``novel``, bool (K,),
    also AP and AP50 of both groups (``base_AP`` ...).
    """
    percent = np.round(100 * np.asarray(thresholds))
    summary = dict(
        AP=_mean_of_valid(precision),
        AP50=_mean_of_valid(precision[percent == 50]),
        AP75=_mean_of_valid(precision[percent == 75]),
    )
    if novel is not None:
        for group, members in (('base', ~novel), ('novel', novel)):
            part = summarize(precision[..., members], None, thresholds)
            summary[f'{group}_AP'] = part['AP']
            summary[f'{group}_AP50'] = part['AP50']
    return summary


def summarize_lvis(
    result: PrecisionRecall,
    frequency: Sequence[str],
    novel: np.ndarray,
    max_dets: int | None = 300,
) -> dict[str, float]:
    """The figures of the LVIS protocol, and those of base and novel classes.

    AP, AP50, AP75, APs/m/l (object size), APr/c/f (frequency), base_/novel_ AP
    and AP50, AR and ARs/m/l; in [0, 1], or -1 for a group without objects.
    ``max_dets`` is part of the recall's name; None: no such limit (fixed AP).
    """
    # In one piece; each of its parts would be gathered from far apart.
    everything = np.ascontiguousarray(result.precision[..., 0])
    summary = summarize(everything, novel)
    for index, name in enumerate(AREA_NAMES[1:], start=1):
        summary[f'AP{name[0]}'] = _mean_of_valid(result.precision[..., index])
    for letter in FREQUENCIES:
        members = np.array(frequency) == letter
        summary[f'AP{letter}'] = _mean_of_valid(everything[..., members])
    for index, name in enumerate(AREA_NAMES):
        letter = name[0] if index else ''
        limit = '' if max_dets is None else f'@{max_dets}'
        summary[f'AR{letter}{limit}'] = _mean_of_valid(
            result.recall[..., index]
        )
    return summary


def summarize_categories(
    precision: np.ndarray,
    gt: GroundTruth,
    novel: np.ndarray,
    categories: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    thresholds: Sequence[float] = IOU_THRESHOLDS,
) -> list[dict]:
    """``AP`` and ``AP50`` of every category, (T, R, K).

    Besides ``id``, ``name``, ``frequency``, ``novel`` and ``objects``, their
    number; ``categories`` and ``names`` are by default the file's.
    """
    index = range(gt.num_categories) if categories is None else categories
    counted = gt.category_index[~gt.crowd]
    objects = np.bincount(counted, minlength=gt.num_categories)
    by_category = np.ascontiguousarray(np.moveaxis(precision, 2, 0))
    rows = []
    for k, category in enumerate(index):
        scores = summarize(by_category[k], None, thresholds)
        rows.append(
            dict(
                id=gt.categories.spell(int(gt.category_ids[category])),
                name=gt.names[category] if names is None else names[k],
                frequency=gt.frequency[category],
                novel=bool(novel[k]),
                objects=int(objects[category]),
                AP=scores['AP'],
                AP50=scores['AP50'],
            )
        )
    return rows
