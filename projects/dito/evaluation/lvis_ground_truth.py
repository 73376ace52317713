# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The ground truth of a federated data set as arrays."""

from functools import cached_property
from typing import Dict, List, Sequence, Tuple

import numpy as np
import pycocotools.mask as mask_utils

from .files import read_json

FREQUENCIES = ('r', 'c', 'f')
_FIELDS = {'image_id', 'category_id', 'bbox', 'area'}
_REQUIRED = ('neg_category_ids', 'not_exhaustive_category_ids')


class LVISGroundTruth:
    """Annotations in LVIS form, sorted by category and image.

    A federated data set says for each image which categories are present
    (annotated), which are absent (``neg_category_ids``) and which of the
    present ones are not annotated everywhere
    (``not_exhaustive_category_ids``). All others are unknown in that image,
    and detections of them do not count.

    Args:
        content (dict): The annotation file: ``images``, ``categories`` (with
            ``frequency``) and ``annotations``.
        source (str): Where it comes from, for error messages.

    Attributes:
        image_ids (np.ndarray): Sorted ids, shape (I,), int64.
        category_ids (np.ndarray): Sorted ids, shape (K,), int64.
        names (tuple[str]): Category names in order of id.
        frequency (tuple[str]): 'r', 'c' or 'f' in order of category id.
        image_index (np.ndarray): Image of each object, shape (G,), int64.
        category_index (np.ndarray): Category of each object, shape (G,).
        boxes (np.ndarray): x, y, width, height, shape (G, 4), float64.
        areas (np.ndarray): Areas in the file, shape (G,), float64.
        ignore (np.ndarray): Objects that neither help nor hurt, shape (G,).

    Raises:
        ValueError: If the content is not in LVIS form.
    """

    def __init__(self, content: dict, source: str = 'ground truth') -> None:
        self.content = content
        self.source = source
        self._check_form()
        categories = sorted(content['categories'], key=lambda cat: cat['id'])
        self.image_ids = np.unique([img['id'] for img in content['images']])
        self.category_ids = np.array([cat['id'] for cat in categories])
        self.names: Tuple[str, ...] = tuple(cat['name'] for cat in categories)
        self.frequency: Tuple[str, ...] = tuple(
            cat['frequency'] for cat in categories
        )
        self._sizes = {
            img['id']: (img['height'], img['width'])
            for img in content['images']
        }
        self._read_annotations()

    @classmethod
    def from_file(
        cls, path: str, backend_args: dict | None = None
    ) -> 'LVISGroundTruth':
        """Read an annotation file.

        Args:
            path (str): Path of the JSON file.
            backend_args (dict, optional): File backend of MMEngine.

        Returns:
            LVISGroundTruth: The ground truth.
        """
        return cls(read_json(path, backend_args), path)

    def _check_form(self) -> None:
        """Refuse files without what federated evaluation needs."""
        for key in ('images', 'categories', 'annotations'):
            if key not in self.content:
                raise ValueError(f'{self.source} has no {key!r}')
        for category in self.content['categories']:
            if category.get('frequency') not in FREQUENCIES:
                raise ValueError(
                    f'{self.source}: category {category["name"]!r} has '
                    f'frequency {category.get("frequency")!r}, expected one '
                    f'of {FREQUENCIES}; is this an LVIS file?'
                )
        for image in self.content['images']:
            lost = [key for key in _REQUIRED if key not in image]
            if lost:
                raise ValueError(
                    f'{self.source}: image {image["id"]} has no {lost}, '
                    'which federated evaluation needs'
                )

    def _read_annotations(self) -> None:
        """Fill the arrays of objects, by category, then image, then file."""
        for ann in self.content['annotations']:
            if not _FIELDS <= ann.keys():
                raise ValueError(
                    f'{self.source}: annotation {ann.get("id")} has no '
                    f'{sorted(_FIELDS - ann.keys())}, which evaluation needs'
                )
        # Objects without area are no objects for the reference either.
        kept = [a for a in self.content['annotations'] if a['area'] > 0]
        image = self.to_image_index([ann['image_id'] for ann in kept])
        category = self.to_category_index([a['category_id'] for a in kept])
        order = np.lexsort((image, category))
        self._annotations = [kept[i] for i in order]
        self.image_index = image[order]
        self.category_index = category[order]
        boxes = [ann['bbox'] for ann in self._annotations]
        self.boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        areas = [ann['area'] for ann in self._annotations]
        self.areas = np.array(areas, dtype=np.float64)
        ignore = [bool(ann.get('ignore', 0)) for ann in self._annotations]
        self.ignore = np.array(ignore, dtype=bool)
        self._rles: Dict[int, dict] = {}

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    @property
    def num_categories(self) -> int:
        """Number of categories."""
        return len(self.category_ids)

    def to_image_index(self, ids: Sequence[int]) -> np.ndarray:
        """Positions of image ids in ``image_ids``.

        Args:
            ids (Sequence[int]): Image ids, N of them.

        Returns:
            np.ndarray: Indices of shape (N,), int64.

        Raises:
            ValueError: If an id is unknown.
        """
        return self._positions(ids, self.image_ids, 'image')

    def to_category_index(self, ids: Sequence[int]) -> np.ndarray:
        """Positions of category ids in ``category_ids``.

        Args:
            ids (Sequence[int]): Category ids, N of them.

        Returns:
            np.ndarray: Indices of shape (N,), int64.

        Raises:
            ValueError: If an id is unknown.
        """
        return self._positions(ids, self.category_ids, 'category')

    def _positions(
        self, ids: Sequence[int], known: np.ndarray, kind: str
    ) -> np.ndarray:
        """Look ids up in a sorted array."""
        ids = np.asarray(ids, dtype=np.int64)
        found = np.searchsorted(known, ids)
        found = np.minimum(found, max(len(known) - 1, 0))
        wrong = known[found] != ids if len(known) else np.ones_like(ids, bool)
        if wrong.any():
            unknown = np.unique(ids[wrong])
            raise ValueError(
                f'{len(unknown)} {kind} ids are not in {self.source}: '
                f'{unknown[:5].tolist()}'
            )
        return found

    def pair_keys(
        self, image_index: np.ndarray, category_index: np.ndarray
    ) -> np.ndarray:
        """One number for each pair of category and image, by category first.

        Args:
            image_index (np.ndarray): Shape (N,).
            category_index (np.ndarray): Shape (N,).

        Returns:
            np.ndarray: Shape (N,), int64.
        """
        return category_index * np.int64(self.num_images) + image_index

    @cached_property
    def judged_keys(self) -> np.ndarray:
        """Sorted pair keys of categories known to be present or absent."""
        present = self.pair_keys(self.image_index, self.category_index)
        absent = self._listed_keys('neg_category_ids')
        return np.unique(np.concatenate([present, absent]))

    @cached_property
    def not_exhaustive_keys(self) -> np.ndarray:
        """Sorted pair keys of categories not annotated everywhere."""
        return np.unique(self._listed_keys('not_exhaustive_category_ids'))

    def _listed_keys(self, field: str) -> np.ndarray:
        """Pair keys of a list of category ids that each image has."""
        images: List[int] = []
        categories: List[int] = []
        for image in self.content['images']:
            images.extend([image['id']] * len(image[field]))
            categories.extend(image[field])
        return self.pair_keys(
            self.to_image_index(images), self.to_category_index(categories)
        )

    def rle(self, index: int) -> dict:
        """Mask of one object as compressed RLE; decoded once.

        Args:
            index (int): Position of the object in the arrays.

        Returns:
            dict: ``size`` and ``counts``.

        Raises:
            ValueError: If the object has no mask.
        """
        if index not in self._rles:
            annotation = self._annotations[index]
            mask = annotation.get('segmentation')
            if not mask:
                raise ValueError(
                    f'{self.source}: object {annotation.get("id")} has no '
                    "segmentation, which mask AP needs; use metric='bbox'"
                )
            size = self._sizes[annotation['image_id']]
            if isinstance(mask, list):
                mask = mask_utils.merge(mask_utils.frPyObjects(mask, *size))
            elif isinstance(mask['counts'], list):
                mask = mask_utils.frPyObjects(mask, *size)
            self._rles[index] = mask
        return self._rles[index]
