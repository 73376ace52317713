# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detections as columns, a few bytes each instead of a dict each."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

import numpy as np
import pycocotools.mask as mask_utils

from dito.utils.files import read_json

from ..datasets.annotations import IdNumbers, as_id, show

# With numpy 2, pycocotools 2.0.11 fails on lists of 256 masks and more.
_MASKS_PER_CALL = 255


class PackedMasks:
    """Run lengths of masks in few pieces: a sequence of RLE dicts.

    As Python objects they would take 300 bytes each beside the run lengths.
    ``columns`` are piece, first byte, one behind the last, height and width of
    each mask, (N, 5), int64.
    """

    def __init__(self, pieces: Sequence[bytes], columns: np.ndarray) -> None:
        self._pieces = list(pieces)
        self._columns = columns

    @classmethod
    def pack(cls, masks: Sequence[dict | None]) -> 'PackedMasks':
        """Put compressed RLE masks in one piece; None becomes an empty one."""
        masks = [mask or dict(size=(0, 0), counts=b'') for mask in masks]
        counts = [mask['counts'] for mask in masks]
        counts = [c.encode() if isinstance(c, str) else c for c in counts]
        columns = np.zeros((len(masks), 5), np.int64)
        columns[:, 2] = np.cumsum([len(c) for c in counts])
        columns[1:, 1] = columns[:-1, 2]
        columns[:, 3:] = np.reshape([m['size'] for m in masks], (-1, 2))
        return cls([b''.join(counts)], columns)

    @classmethod
    def join(cls, parts: Sequence['PackedMasks']) -> 'PackedMasks':
        """Masks of several in a row; run lengths are not copied."""
        pieces: list[bytes] = []
        columns = [np.zeros((0, 5), np.int64)]
        for part in parts:
            columns.append(part._columns + [len(pieces), 0, 0, 0, 0])
            pieces += part._pieces
        return cls(pieces, np.concatenate(columns))

    def __len__(self) -> int:
        return len(self._columns)

    def take(self, index: np.ndarray) -> 'PackedMasks':
        """Select and reorder; run lengths are not copied."""
        return PackedMasks(self._pieces, self._columns[index])

    def __getitem__(self, index: slice) -> list[dict]:
        return [
            dict(size=[height, width], counts=self._pieces[piece][start:stop])
            for piece, start, stop, height, width in self._columns[
                index
            ].tolist()
        ]


@dataclass(frozen=True)
class LVISDetections:
    """Detections of many images in COCO's result form, stored by column.

    Ids are int64, scores and ``boxes`` (x, y, width, height), (N, 4), float64.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None = None
    masks: PackedMasks | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def join(cls, parts: Sequence['LVISDetections']) -> 'LVISDetections':
        """Detections of several in a row, all with boxes.

        They have masks if all of them have.
        """
        parts = [cls.from_results([]), *parts]
        masks = [part.masks for part in parts]
        return cls(
            np.concatenate([part.image_ids for part in parts]),
            np.concatenate([part.category_ids for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.boxes for part in parts]),
            None if None in masks else PackedMasks.join(masks),
        )

    @classmethod
    def from_results(
        cls,
        results: Sequence[dict],
        images: IdNumbers | None = None,
        categories: IdNumbers | None = None,
    ) -> 'LVISDetections':
        """Take the entries of a result file, with boxes and/or masks (RLE).

        Without the ground truth's ``images`` and ``categories`` ids must be
        whole numbers. ValueError if an id is unknown or a number not finite.
        """
        masks = boxes = None
        number = len(results)
        if not results or 'segmentation' in results[0]:
            masks = PackedMasks.pack([r['segmentation'] for r in results])
        if not results or 'bbox' in results[0]:
            flat = chain.from_iterable(map(itemgetter('bbox'), results))
            boxes = np.fromiter(flat, np.float64)
            if len(boxes) != 4 * number:
                raise ValueError('each bbox must be x, y, width and height')
            boxes = boxes.reshape(-1, 4)
            _require_finite(boxes, results, 'bbox')
        ids = (
            _numbers(results, 'image_id', images),
            _numbers(results, 'category_id', categories),
        )
        scores = np.fromiter(
            map(itemgetter('score'), results), np.float64, number
        )
        _require_finite(scores, results, 'score')
        return cls(*ids, scores, boxes, masks)

    @classmethod
    def from_file(
        cls,
        path: str,
        images: IdNumbers | None = None,
        categories: IdNumbers | None = None,
    ) -> 'LVISDetections':
        """Read a json file with a list of results, else a ValueError."""
        results = read_json(path)
        lost = None
        if isinstance(results, list):
            try:
                return cls.from_results(results, images, categories)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                lost = error
        raise ValueError(
            f'{path} is not a list of detections with image_id, category_id, '
            f'score and bbox or segmentation{f" ({lost})" if lost else ""}'
        )

    def to_results(self, iou_type: str) -> list[dict]:
        """Entries of a result file, one a detection.

        'segm' writes masks only, so that the area of an object is that of its
        mask.
        """
        key, shapes = 'segmentation', self.masks
        if iou_type == 'bbox':
            key, shapes = 'bbox', self.boxes.tolist()
        columns = zip(
            self.image_ids.tolist(),
            self.category_ids.tolist(),
            self.scores.tolist(),
            shapes[:],
            strict=True,
        )
        return [
            {
                'image_id': image,
                'category_id': category,
                'score': score,
                key: shape,
            }
            for image, category, score, shape in columns
        ]

    def take(self, index: np.ndarray) -> 'LVISDetections':
        """Select and reorder detections."""
        return LVISDetections(
            self.image_ids[index],
            self.category_ids[index],
            self.scores[index],
            None if self.boxes is None else self.boxes[index],
            None if self.masks is None else self.masks.take(index),
        )

    def areas(self, iou_type: str) -> np.ndarray:
        """Areas of boxes or masks in square pixels, (N,), float64."""
        if iou_type == 'bbox':
            return self.boxes[:, 2] * self.boxes[:, 3]
        areas = np.zeros(len(self))
        for start in range(0, len(self), _MASKS_PER_CALL):
            part = slice(start, start + _MASKS_PER_CALL)
            areas[part] = mask_utils.area(self.masks[part])
        return areas

    def limit_per_image(self, max_dets: int) -> 'LVISDetections':
        """Keep the best ``max_dets`` of each image, over all categories.

        Of equal scores the earlier one stays.
        """
        return self._limit(self.image_ids, max_dets)

    def limit_per_category(self, max_dets: int) -> 'LVISDetections':
        """Keep the best of each category, over all images, as fixed AP has it.

        Of equal scores the earlier one stays.
        """
        return self._limit(self.category_ids, max_dets)

    def _limit(self, groups: np.ndarray, number: int) -> 'LVISDetections':
        """Keep the best of each group, in the order they have."""
        order = np.lexsort((-self.scores, groups))
        sorted_groups = groups[order]
        first = np.searchsorted(sorted_groups, sorted_groups, side='left')
        rank = np.arange(len(order)) - first
        if rank.max(initial=0) < number:
            return self
        return self.take(np.sort(order[rank < number]))


def _numbers(
    results: Sequence[dict], key: str, known: IdNumbers | None
) -> np.ndarray:
    """Ids of detections by the rules of annotations, shape (N,), int64."""
    find = as_id if known is None else known.find
    numbers = [find(result[key]) for result in results]
    try:
        if set(map(type, numbers)) <= {int}:
            return np.array(numbers, np.int64)
    except OverflowError:
        numbers = [n if abs(n) < 1 << 63 else None for n in numbers]
    wrong = next(k for k, n in enumerate(numbers) if type(n) is not int)
    what = 'a whole number is expected'
    if known is not None:
        what = 'which the annotation file does not have'
    raise ValueError(f'{key} {show(results[wrong][key])}, {what}')


def _require_finite(
    values: np.ndarray, results: Sequence[dict], key: str
) -> None:
    """Stop at numbers that are none."""
    fine = np.isfinite(values).reshape(len(results), -1 if results else 1)
    wrong = np.flatnonzero(~fine.all(axis=1))
    if len(wrong):
        raise ValueError(
            f'{key} {show(results[wrong[0]][key])}, finite '
            'numbers are expected'
        )
