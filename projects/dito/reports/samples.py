# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Annotated images of a COCO or LVIS file, and what models make of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmcv import imread
from pycocotools import mask as coco_mask

from dito.apis import DITOInferencer, TextSimilarity
from dito.apis.similarity import peak_in_box
from dito.datasets.annotations import (
    Id,
    image_file,
    read_annotations,
    sort_key,
)
from dito.datasets.masks import to_rle
from dito.datasets.symbols.shards import with_article
from dito.models.text.name_checks import readable_name
from dito.visualization.objects import (
    Box,
    ShownObject,
    distinct,
    from_prediction,
    judge,
)

from .logs import stage_files

#: Least score of detections that are shown.
SCORE_THR = 0.3


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file with its objects, as annotated."""

    path: Path
    objects: tuple[ShownObject, ...]

    @property
    def has_novel(self) -> bool:
        """Whether an object of a novel class is in it."""
        return any(item.novel for item in self.objects)

    @property
    def singles(self) -> list[ShownObject]:
        """Objects that are the only ones of their class in the image."""
        counts = Counter(item.name for item in self.objects)
        return [item for item in self.objects if counts[item.name] == 1]

    def read(self) -> np.ndarray:
        """Pixels: RGB, uint8, (H, W, 3)."""
        image = imread(str(self.path), channel_order='rgb')
        if image is None:
            raise ValueError(f'{self.path} cannot be decoded as an image.')
        return image


@dataclass(frozen=True)
class AnnotatedSet:
    """A data set."""

    images: list[AnnotatedImage]  #: In the order of the file.
    names: list[str]  #: Of classes, in the order of their numbers.
    novel: list[str]  #: Those of frequency 'r'.


@dataclass(frozen=True)
class DetectionSample:
    """An image, what is in it and what was found."""

    name: str  #: Of the file.
    image: np.ndarray  #: RGB, uint8, (H, W, 3).
    truth: tuple[ShownObject, ...]
    found: tuple[ShownObject, ...]  #: Best first.

    @property
    def judged(self) -> list[ShownObject]:
        """What is shown: hits, wrong names and missed objects."""
        return judge(distinct(self.found), self.truth)


@dataclass(frozen=True)
class SimilaritySample:
    """An image, a text, and where two models see it."""

    name: str  #: Of the file.
    image: np.ndarray  #: RGB, uint8, (H, W, 3).
    text: str  #: The query.
    before: np.ndarray  #: Map of the backbone, (h, w).
    after: np.ndarray  #: Map of the sliding box head, (h, w).
    box: Box | None = None  #: Where the object is.


@dataclass(frozen=True)
class PointingGame:
    """How often a map is highest inside the object that the text names."""

    images: int  #: Looked at.
    queries: int  #: Objects asked for.
    before: float  #: Share of hits of the backbone's maps.
    after: float  #: Share of hits of the sliding box head's maps.
    chance: float  #: Mean share of the picture that the boxes cover.


def read_annotated(ann_file: Path, image_root: Path) -> AnnotatedSet:
    """Read all images and objects of a file; frequency 'r' is novel.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it breaks the rules of annotation files.
    """
    if not ann_file.is_file():
        raise FileNotFoundError(
            f'The annotations {ann_file} do not exist; check the folder of '
            'the data set.'
        )
    read = read_annotations(ann_file).refuse_faults(files=True)
    classes = {c['id']: c for c in read.categories}
    novel = {i for i, c in classes.items() if c.get('frequency') == 'r'}
    images = {image['id']: image for image in read.images}
    objects: dict[Id, list[ShownObject]] = {number: [] for number in images}
    for item in read.annotations:
        number, category = item['image_id'], item['category_id']
        x, y, width, height = item['bbox']
        mask = None
        if item.get('segmentation'):
            size = images[number]['height'], images[number]['width']
            mask = coco_mask.decode(to_rle(item['segmentation'], *size))
            mask = mask.astype(bool)
        box, name = (x, y, x + width, y + height), classes[category]['name']
        objects[number].append(
            ShownObject(box, name, category in novel, mask=mask)
        )
    order = sorted(classes, key=sort_key)
    return AnnotatedSet(
        [
            AnnotatedImage(image_root / image_file(image), tuple(objects[i]))
            for i, image in images.items()
        ],
        [classes[i]['name'] for i in order],
        [classes[i]['name'] for i in order if i in novel],
    )


def first_with_novel(
    images: Sequence[AnnotatedImage], count: int | None = None
) -> list[AnnotatedImage]:
    """The first images that have a novel object, whatever a model finds."""
    return [image for image in images if image.has_novel][:count]


def load_models(
    quickstart_dir: Path, device: str
) -> tuple[DITOInferencer, TextSimilarity]:
    """A quickstart's models of stages 3 and 2, which holds the tower too."""
    detector = stage_files(quickstart_dir / 'dito')
    rep = stage_files(quickstart_dir / 'rep')
    return (
        DITOInferencer(*detector, device=device),
        TextSimilarity.from_files(*rep, device),
    )


def detect_samples(
    inferencer: DITOInferencer,
    data: AnnotatedSet,
    images: Sequence[AnnotatedImage],
    score_thr: float,
) -> list[DetectionSample]:
    """Look for all classes of a data set in some of its images.

    Which classes are novel is what the data set says, as in an evaluation.
    """
    if not images:
        return []
    names = inferencer.set_vocabulary(data.names).with_novel(data.novel)
    paths = [image.path for image in images]
    results = inferencer(paths, names, score_thr=score_thr)['predictions']
    return [
        DetectionSample(
            image.path.name,
            image.read(),
            image.objects,
            tuple(from_prediction(result, data.novel)),
        )
        for image, result in zip(images, results, strict=True)
    ]


def query_text(name: str) -> str:
    """Caption that asks for a class: 'a photo of an anchor'."""
    return f'a photo of {with_article(readable_name(name))}'


def similarity_samples(
    similarity: TextSimilarity, images: Sequence[AnnotatedImage], count: int
) -> list[SimilaritySample]:
    """Ask for one object in each of the first images.

    The object is the first one that is alone of its class in the image, a
    novel one if there is one. The model must have a box head.
    """
    samples = []
    for image in [i for i in images if i.singles][:count]:
        item = min(image.singles, key=lambda o: not o.novel)
        pixels, text = image.read(), query_text(item.name)
        before, after = (maps[0] for maps in similarity(pixels, [text]))
        name = image.path.name
        samples.append(
            SimilaritySample(name, pixels, text, before, after, item.box)
        )
    return samples


def pointing_game(
    similarity: TextSimilarity, images: Sequence[AnnotatedImage]
) -> PointingGame | None:
    """Count how often the maps are highest inside the object asked for.

    Objects whose class occurs twice in an image are left out; None if there is
    no object to ask for. The model must have a box head.
    """
    hits: list[tuple[bool, bool, float]] = []
    for image in [i for i in images if i.singles]:
        pixels, objects = image.read(), image.singles
        maps = similarity(pixels, [query_text(o.name) for o in objects])
        height, width = size = pixels.shape[:2]
        for item, *pair in zip(objects, *maps, strict=True):
            x1, y1, x2, y2 = item.box
            share = (x2 - x1) * (y2 - y1) / (height * width)
            before, after = (peak_in_box(m, item.box, size) for m in pair)
            hits.append((before, after, share))
    if not hits:
        return None
    return PointingGame(len(images), len(hits), *np.mean(hits, 0).tolist())
