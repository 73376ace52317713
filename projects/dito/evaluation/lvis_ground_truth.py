# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The ground truth of a federated data set as arrays."""

from functools import cached_property
from typing import Dict, List, Sequence, Tuple, Union

import numpy as np

from ..datasets.annotations import (
    ID_LISTS,
    Annotations,
    IdNumbers,
    normalise,
    read_annotations,
    require_federated,
)
from ..datasets.masks import to_rle


class LVISGroundTruth:
    """Annotations in LVIS form, sorted by category and image.

    A federated data set says for each image which categories are present
    (annotated), which are absent (``neg_category_ids``) and which of the
    present ones are not annotated everywhere
    (``not_exhaustive_category_ids``). All others are unknown in that image,
    and detections of them do not count.

    Args:
        content (dict | Annotations): The annotation file: ``images``,
            ``categories`` (with ``frequency``) and ``annotations``.
        source (str): Where it comes from, for error messages.
        masks (bool): Whether masks must be sound. Defaults to True.

    Attributes:
        read (Annotations): The file.
        images (IdNumbers): Numbers of its image ids: the ids themselves, if
            all of them are numbers.
        categories (IdNumbers): Likewise of its categories.
        image_ids (np.ndarray): Sorted numbers, shape (I,), int64.
        category_ids (np.ndarray): Sorted numbers, shape (K,), int64.
        names (tuple[str]): Category names in order of id.
        frequency (tuple[str]): 'r', 'c' or 'f' in order of category id.
        image_index (np.ndarray): Image of each object, shape (G,), int64.
        category_index (np.ndarray): Category of each object, shape (G,).
        boxes (np.ndarray): x, y, width, height, shape (G, 4), float64.
        areas (np.ndarray): Areas, of the box where the file has none, shape
            (G,), float64.
        ignore (np.ndarray): Objects that neither help nor hurt, shape (G,).

    Raises:
        ValueError: If the content is not in LVIS form.
    """

    def __init__(
        self,
        content: Union[dict, Annotations],
        source: str = 'ground truth',
        masks: bool = True,
    ) -> None:
        if not isinstance(content, Annotations):
            if 'annotations' not in content:
                raise ValueError(f"{source} has no 'annotations'")
            content = normalise(content, source)
        self.read = content.refuse_faults(masks=masks)
        self.source = self.read.source
        require_federated(self.read)
        self.images = IdNumbers('images', self.read, keep=True)
        self.categories = IdNumbers('categories', self.read, keep=True)
        self.image_ids = np.array(self.images.numbers, dtype=np.int64)
        self.category_ids = np.array(self.categories.numbers, dtype=np.int64)
        by_id = {cat['id']: cat for cat in self.read.categories}
        ordered = [by_id[i] for i in self.categories.ids]
        self.names: Tuple[str, ...] = tuple(cat['name'] for cat in ordered)
        self.frequency: Tuple[str, ...] = tuple(
            cat['frequency'] for cat in ordered
        )
        self._sizes = {
            img['id']: (img['height'], img['width'])
            for img in self.read.images
        }
        self._take_annotations()

    @classmethod
    def from_file(
        cls, path: str, backend_args: dict | None = None, masks: bool = True
    ) -> 'LVISGroundTruth':
        """Read an annotation file.

        Args:
            path (str): Path of the JSON file.
            backend_args (dict, optional): File backend of MMEngine.
            masks (bool): Whether masks must be sound. Defaults to True.

        Returns:
            LVISGroundTruth: The ground truth.
        """
        return cls(read_annotations(path, backend_args), masks=masks)

    def _take_annotations(self) -> None:
        """Fill the arrays of objects, by category, then image, then file."""
        # Objects without area are no objects for the reference either.
        kept = [a for a in self.read.annotations if a['area'] > 0]
        image = self.to_image_index(
            [self.images.find(ann['image_id']) for ann in kept]
        )
        category = self.to_category_index(
            [self.categories.find(ann['category_id']) for ann in kept]
        )
        order = np.lexsort((image, category))
        self._annotations = [kept[i] for i in order]
        self.image_index = image[order]
        self.category_index = category[order]
        boxes = [ann['bbox'] for ann in self._annotations]
        self.boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        areas = [ann['area'] for ann in self._annotations]
        self.areas = np.array(areas, dtype=np.float64)
        ignore = [ann.get('ignore', 0) for ann in self._annotations]
        self.ignore = np.array(ignore, dtype=bool)
        self._rles: Dict[int, dict] = {}

    def content(self) -> dict:
        """The file for other packages: with numbers for all ids."""
        find_image, find_category = self.images.find, self.categories.find
        lists = {
            field: [list(map(find_category, image[field]))
                    for image in self.read.images]
            for field in ID_LISTS
        }
        return dict(
            images=[
                dict(image, id=find_image(image['id']),
                     **{field: lists[field][k] for field in ID_LISTS})
                for k, image in enumerate(self.read.images)
            ],
            categories=[
                dict(category, id=find_category(category['id']))
                for category in self.read.categories
            ],
            annotations=[
                dict(
                    ann,
                    id=number,
                    image_id=find_image(ann['image_id']),
                    category_id=find_category(ann['category_id']),
                )
                for number, ann in enumerate(self.read.annotations, 1)
            ],
        )

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
        for image in self.read.images:
            number = self.images.find(image['id'])
            images.extend([number] * len(image[field]))
            categories.extend(map(self.categories.find, image[field]))
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
            self._rles[index] = to_rle(mask, *size)
        return self._rles[index]
