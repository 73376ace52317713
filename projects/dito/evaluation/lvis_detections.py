# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detections as columns, a few bytes each instead of a dict each."""

from dataclasses import dataclass
from typing import List, Optional, Sequence

import numpy as np
import pycocotools.mask as mask_utils

# With numpy 2, pycocotools 2.0.11 fails on lists of 256 masks and more.
_MASKS_PER_CALL = 255


@dataclass(frozen=True)
class LVISDetections:
    """Detections of many images in COCO's result form, stored by column.

    Args:
        image_ids (np.ndarray): Shape (N,), int64.
        category_ids (np.ndarray): Shape (N,), int64.
        scores (np.ndarray): Shape (N,), float64.
        boxes (np.ndarray, optional): x, y, width, height, shape (N, 4),
            float64.
        masks (list[dict], optional): Compressed RLE masks, N of them.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: Optional[np.ndarray] = None
    masks: Optional[List[dict]] = None

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def from_results(cls, results: Sequence[dict]) -> 'LVISDetections':
        """Take the entries of a result file.

        Args:
            results (Sequence[dict]): ``image_id``, ``category_id``,
                ``score`` and ``bbox`` and/or ``segmentation`` (RLE).

        Returns:
            LVISDetections: The same as columns.
        """
        masks = boxes = None
        if not results or 'segmentation' in results[0]:
            masks = [result['segmentation'] for result in results]
        if not results or 'bbox' in results[0]:
            boxes = np.array([result['bbox'] for result in results])
            boxes = boxes.astype(np.float64).reshape(-1, 4)
        return cls(
            image_ids=np.array([r['image_id'] for r in results], np.int64),
            category_ids=np.array(
                [r['category_id'] for r in results], np.int64
            ),
            scores=np.array([r['score'] for r in results], np.float64),
            boxes=boxes,
            masks=masks,
        )

    def to_results(self, iou_type: str) -> List[dict]:
        """Entries of a result file.

        Args:
            iou_type (str): 'bbox' writes boxes, 'segm' masks only, so that
                the area of an object is that of its mask.

        Returns:
            list[dict]: One dict a detection.
        """
        columns = zip(
            self.image_ids.tolist(),
            self.category_ids.tolist(),
            self.scores.tolist(),
            strict=True,
        )
        results = [
            dict(image_id=image, category_id=category, score=score)
            for image, category, score in columns
        ]
        if iou_type == 'bbox':
            for result, box in zip(results, self.boxes.tolist(), strict=True):
                result['bbox'] = box
        else:
            for result, mask in zip(results, self.masks, strict=True):
                result['segmentation'] = mask
        return results

    def take(self, index: np.ndarray) -> 'LVISDetections':
        """Select and reorder detections.

        Args:
            index (np.ndarray): Positions or a boolean mask.

        Returns:
            LVISDetections: The selected ones.
        """
        if index.dtype == bool:
            index = np.flatnonzero(index)
        return LVISDetections(
            image_ids=self.image_ids[index],
            category_ids=self.category_ids[index],
            scores=self.scores[index],
            boxes=None if self.boxes is None else self.boxes[index],
            masks=self.masks and [self.masks[i] for i in index.tolist()],
        )

    def areas(self, iou_type: str) -> np.ndarray:
        """Areas in square pixels, of boxes or masks.

        Args:
            iou_type (str): 'bbox' or 'segm'.

        Returns:
            np.ndarray: Shape (N,), float64.
        """
        if iou_type == 'bbox':
            return self.boxes[:, 2] * self.boxes[:, 3]
        areas = np.zeros(len(self))
        for start in range(0, len(self), _MASKS_PER_CALL):
            part = slice(start, start + _MASKS_PER_CALL)
            areas[part] = mask_utils.area(self.masks[part])
        return areas

    def limit_per_image(self, max_dets: int) -> 'LVISDetections':
        """Keep the best detections of each image.

        Args:
            max_dets (int): How many, over all categories.

        Returns:
            LVISDetections: At most ``max_dets`` an image; of equal scores
            the earlier one stays.
        """
        order = np.lexsort((-self.scores, self.image_ids))
        images = self.image_ids[order]
        first = np.searchsorted(images, images, side='left')
        rank = np.arange(len(images)) - first
        return self.take(np.sort(order[rank < max_dets]))
