# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The ground truth of evaluations as arrays."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ..datasets.annotations import (
    Annotations,
    IdNumbers,
    normalise,
    read_annotations,
    require_federated,
)
from ..datasets.masks import to_rle


def is_in_sorted(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether each value, (N,), is in a sorted array."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return known[place] == values


class GroundTruth:
    """Annotations as arrays, by category, then image, then file.

    Here, as COCO has it, every category is judged in every image.

    Args:
        read (Annotations): The file.
        masks (bool): Whether masks must be sound. Defaults to True.

    Attributes:
        read (Annotations): The file.
        source (str): Where it comes from, for error messages.
        images (IdNumbers): Numbers of its image ids: the ids themselves, if
            all of them are numbers.
        categories (IdNumbers): Likewise of its categories.
        image_ids (np.ndarray): Sorted numbers, shape (I,), int64.
        category_ids (np.ndarray): Sorted numbers, shape (K,), int64.
        names (tuple[str]): Category names in order of id.
        frequency (tuple[str]): '' of each category; 'r', 'c' or 'f' in LVIS.
        sizes (np.ndarray): Height and width of the images, shape (I, 2).
        image_index (np.ndarray): Image of each object, shape (G,), int64.
        category_index (np.ndarray): Category of each object, shape (G,).
        bounds (np.ndarray): Where the objects of each category begin, and
            the last ones end, shape (K + 1,).
        boxes (np.ndarray): x, y, width, height, shape (G, 4), float64.
        areas (np.ndarray): Areas, of the box where the file has none, shape
            (G,), float64.
        crowd (np.ndarray): Objects that stand for many, shape (G,), bool.
        ignore (np.ndarray): Objects that neither help nor hurt, shape (G,).

    Raises:
        ValueError: If the file breaks the rules of annotations.
    """

    #: Whether objects and detections without area count.
    counts_empty = True
    #: Sorted pair keys of categories not annotated everywhere in an image.
    not_exhaustive_keys = np.zeros(0, dtype=np.int64)

    def __init__(self, read: Annotations, masks: bool = True) -> None:
        self.read = read.refuse_faults(masks=masks)
        self.source = read.source
        self.images = IdNumbers('images', read, keep=True)
        self.categories = IdNumbers('categories', read, keep=True)
        self.image_ids = np.array(self.images.numbers, dtype=np.int64)
        self.category_ids = np.array(self.categories.numbers, dtype=np.int64)
        by_id = {cat['id']: cat for cat in read.categories}
        ordered = [by_id[i] for i in self.categories.ids]
        self.names: tuple[str, ...] = tuple(cat['name'] for cat in ordered)
        self.frequency = self._frequency(ordered)
        sizes = {i['id']: (i['height'], i['width']) for i in read.images}
        self.sizes = np.array([sizes[i] for i in self.images.ids], np.int64)
        self._take_annotations()

    def _frequency(self, categories: Sequence[dict]) -> tuple[str, ...]:
        """Frequency of each category."""
        return ('',) * len(categories)

    def _take_annotations(self) -> None:
        """Fill the arrays of objects."""
        kept = [
            a
            for a in self.read.annotations
            if self.counts_empty or a['area'] > 0
        ]
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
        self.bounds = np.searchsorted(
            self.category_index, np.arange(self.num_categories + 1)
        )
        boxes = [ann['bbox'] for ann in self._annotations]
        self.boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        areas = [ann['area'] for ann in self._annotations]
        self.areas = np.array(areas, dtype=np.float64)
        self.crowd = self._flags('iscrowd')
        self.ignore = np.zeros(len(order), dtype=bool)
        self._rles: dict[int, dict] = {}

    def _flags(self, name: str) -> np.ndarray:
        """A flag of each object, shape (G,), bool."""
        flags = [ann.get(name, 0) for ann in self._annotations]
        return np.array(flags, dtype=bool)

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    @property
    def num_categories(self) -> int:
        """Number of categories."""
        return len(self.category_ids)

    def to_image_index(self, ids: Sequence[int]) -> np.ndarray:
        """Positions of ids in ``image_ids``; ValueError if one is unknown."""
        return self._positions(ids, self.image_ids, 'image')

    def to_category_index(self, ids: Sequence[int]) -> np.ndarray:
        """Positions in ``category_ids``; ValueError if one is unknown."""
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

    def judges(
        self, image_index: np.ndarray, category_index: np.ndarray
    ) -> np.ndarray:
        """Whether detections of categories in images count, bool (N,)."""
        return np.ones(len(category_index), dtype=bool)

    def pair_keys(
        self, image_index: np.ndarray, category_index: np.ndarray
    ) -> np.ndarray:
        """One number for each pair of category and image, in this order."""
        return category_index * np.int64(self.num_images) + image_index

    def rle(self, index: int) -> dict:
        """Mask of an object as compressed RLE, decoded once, if it has one."""
        if index not in self._rles:
            annotation = self._annotations[index]
            mask = annotation.get('segmentation')
            if not mask:
                raise ValueError(
                    f'{self.source}: object {annotation.get("id")} has no '
                    "segmentation, which mask AP needs; use metric='bbox'"
                )
            size = self.sizes[self.image_index[index]].tolist()
            self._rles[index] = to_rle(mask, *size)
        return self._rles[index]


class LVISGroundTruth(GroundTruth):
    """Annotations in LVIS form.

    A federated data set says for each image which categories are present
    (annotated), which are absent (``neg_category_ids``) and which of the
    present ones are not annotated everywhere
    (``not_exhaustive_category_ids``). All others are unknown in that image,
    and detections of them do not count. What has no area is neither an
    object nor a detection, as in the lvis package.

    Args:
        content (dict | Annotations): The annotation file: ``images``,
            ``categories`` (with ``frequency``) and ``annotations``.
        source (str): Where it comes from, for error messages.
        masks (bool): Whether masks must be sound. Defaults to True.

    Raises:
        ValueError: If the content is not in LVIS form.
    """

    counts_empty = False

    def __init__(
        self,
        content: dict | Annotations,
        source: str = 'ground truth',
        masks: bool = True,
    ) -> None:
        if not isinstance(content, Annotations):
            if 'annotations' not in content:
                raise ValueError(f"{source} has no 'annotations'")
            content = normalise(content, source)
        require_federated(content.refuse_faults(masks=masks))
        super().__init__(content, masks)
        self.ignore = self._flags('ignore')
        # LVIS has no crowds.
        self.crowd = np.zeros_like(self.ignore)

    @classmethod
    def from_file(
        cls, path: str, backend_args: dict | None = None, masks: bool = True
    ) -> 'LVISGroundTruth':
        """Read an annotation file."""
        return cls(read_annotations(path, backend_args), masks=masks)

    def _frequency(self, categories: Sequence[dict]) -> tuple[str, ...]:
        return tuple(category['frequency'] for category in categories)

    def judges(
        self, image_index: np.ndarray, category_index: np.ndarray
    ) -> np.ndarray:
        """Whether categories are known to be present or absent in images."""
        keys = self.pair_keys(image_index, category_index)
        return is_in_sorted(keys, self.judged_keys)

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
        images: list[int] = []
        categories: list[int] = []
        for image in self.read.images:
            number = self.images.find(image['id'])
            images.extend([number] * len(image[field]))
            categories.extend(map(self.categories.find, image[field]))
        return self.pair_keys(
            self.to_image_index(images), self.to_category_index(categories)
        )
