# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Annotated images of a COCO or LVIS file, for drawing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
from mmcv import imread
from pycocotools import mask as coco_mask

from ..datasets.annotations import (
    Id,
    image_file,
    read_annotations,
    sort_key,
)
from ..datasets.masks import to_rle
from .shown_object import ShownObject


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its objects.

    Attributes:
        path (Path): File.
        objects (tuple[ShownObject, ...]): As annotated.
    """

    path: Path
    objects: Tuple[ShownObject, ...]

    @property
    def has_novel(self) -> bool:
        """Whether an object of a novel class is in it."""
        return any(item.novel for item in self.objects)

    def read(self) -> np.ndarray:
        """Pixels: RGB, uint8, (H, W, 3)."""
        image = imread(str(self.path), channel_order='rgb')
        if image is None:
            raise ValueError(f'{self.path} cannot be decoded as an image.')
        return image


@dataclass(frozen=True)
class AnnotatedSet:
    """A data set.

    Attributes:
        images (list[AnnotatedImage]): In the order of the file.
        names (list[str]): Class names, in the order of their numbers.
        novel (list[str]): Those of frequency 'r'.
    """

    images: List[AnnotatedImage]
    names: List[str]
    novel: List[str]


def read_annotated(ann_file: Path, image_root: Path) -> AnnotatedSet:
    """Read an annotation file.

    Args:
        ann_file (Path): Annotations; a category of frequency 'r' is novel.
        image_root (Path): What ``file_name`` is relative to.

    Returns:
        AnnotatedSet: All images with all their objects.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it breaks the rules of annotation files.
    """
    if not ann_file.is_file():
        raise FileNotFoundError(f'The annotations {ann_file} do not exist; '
                                'check the folder of the data set.')
    read = read_annotations(ann_file).refuse_faults(files=True)
    categories = {c['id']: c for c in read.categories}
    novel = {i for i, c in categories.items() if c.get('frequency') == 'r'}
    images = {image['id']: image for image in read.images}
    objects: Dict[Id, List[ShownObject]] = {number: [] for number in images}
    for item in read.annotations:
        number, category = item['image_id'], item['category_id']
        x, y, width, height = item['bbox']
        mask = None
        if item.get('segmentation'):
            size = images[number]['height'], images[number]['width']
            rle = to_rle(item['segmentation'], *size)
            mask = coco_mask.decode(rle).astype(bool)
        objects[number].append(
            ShownObject((x, y, x + width, y + height),
                        categories[category]['name'],
                        category in novel,
                        mask=mask))
    order = sorted(categories, key=sort_key)
    return AnnotatedSet(
        [
            AnnotatedImage(image_root / image_file(image),
                           tuple(objects[number]))
            for number, image in images.items()
        ], [categories[i]['name'] for i in order],
        [categories[i]['name'] for i in order if i in novel])


def first_with_novel(images: Sequence[AnnotatedImage],
                     count: int) -> List[AnnotatedImage]:
    """The first images that have a novel object, whatever a model finds."""
    return [image for image in images if image.has_novel][:count]
