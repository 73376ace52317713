# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What models make of some annotated images."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

import numpy as np

from dito.datasets.symbols.captions import with_article
from dito.models.text.templates import readable_name

from .annotated import AnnotatedImage, AnnotatedSet
from .shown_object import (
    ShownObject,
    distinct,
    from_prediction,
    judge,
)
from .similarity import TextSimilarity
from .similarity_ops import peak_in_box

if TYPE_CHECKING:
    from dito.apis import DITOInferencer

Box = Tuple[float, float, float, float]


@dataclass(frozen=True)
class DetectionSample:
    """An image, what is in it and what was found.

    Attributes:
        name (str): File name.
        image (np.ndarray): RGB, uint8, (H, W, 3).
        truth (tuple[ShownObject, ...]): As annotated.
        found (tuple[ShownObject, ...]): Detections, best first.
    """

    name: str
    image: np.ndarray
    truth: Tuple[ShownObject, ...]
    found: Tuple[ShownObject, ...]

    @property
    def judged(self) -> List[ShownObject]:
        """What is shown: hits, wrong names and missed objects."""
        return judge(distinct(self.found), self.truth)


@dataclass(frozen=True)
class SimilaritySample:
    """An image, a text, and where two models see it.

    Attributes:
        name (str): File name.
        image (np.ndarray): RGB, uint8, (H, W, 3).
        text (str): The query.
        before (np.ndarray): Map of the backbone, (h, w).
        after (np.ndarray): Map of the sliding box head, (h, w).
        box (tuple, optional): Where the object is.
    """

    name: str
    image: np.ndarray
    text: str
    before: np.ndarray
    after: np.ndarray
    box: Optional[Box] = None


@dataclass(frozen=True)
class PointingGame:
    """How often a map is highest inside the object that the text names.

    Attributes:
        images (int): Images looked at.
        queries (int): Objects asked for.
        before (float): Share of hits of the backbone's maps.
        after (float): Share of hits of the sliding box head's maps.
        chance (float): Mean share of the picture that the boxes cover, what
            a random place would hit.
    """

    images: int
    queries: int
    before: float
    after: float
    chance: float

    def metrics(self) -> Dict[str, float]:
        """Shares of hits as they stand in metrics.json."""
        return dict(rep_map_hits_before=round(self.before, 5),
                    rep_map_hits_after=round(self.after, 5))


def detect_samples(inferencer: 'DITOInferencer', data: AnnotatedSet,
                   images: Sequence[AnnotatedImage],
                   score_thr: float) -> List[DetectionSample]:
    """Look for all classes of a data set in some of its images.

    Args:
        inferencer (DITOInferencer): The detector.
        data (AnnotatedSet): Says which classes there are, and which of them
            are novel, as in an evaluation.
        images (Sequence[AnnotatedImage]): Images.
        score_thr (float): Least score of what is kept.

    Returns:
        list[DetectionSample]: One an image.
    """
    if not images:
        return []
    vocabulary = inferencer.set_vocabulary(data.names)
    results = inferencer([image.path for image in images],
                         vocabulary.with_novel(data.novel),
                         score_thr=score_thr)['predictions']
    return [
        DetectionSample(image.path.name, image.read(), image.objects,
                        tuple(from_prediction(result, data.novel)))
        for image, result in zip(images, results, strict=True)
    ]


def query_text(name: str) -> str:
    """Caption that asks for a class: 'a photo of an anchor'."""
    return f'a photo of {with_article(readable_name(name))}'


def single_objects(image: AnnotatedImage) -> List[ShownObject]:
    """Objects that are the only ones of their class in the image."""
    counts = Counter(item.name for item in image.objects)
    return [item for item in image.objects if counts[item.name] == 1]


def similarity_samples(similarity: TextSimilarity,
                       images: Sequence[AnnotatedImage],
                       count: int) -> List[SimilaritySample]:
    """Ask for one object in each of the first images.

    The object is the first one that is alone of its class in the image, a
    novel one if there is one.

    Args:
        similarity (TextSimilarity): A model with a box head.
        images (Sequence[AnnotatedImage]): Images, in order.
        count (int): How many are wanted.

    Returns:
        list[SimilaritySample]: At most ``count``.
    """
    samples = []
    for image in images:
        objects = sorted(single_objects(image), key=lambda o: not o.novel)
        if objects and len(samples) < count:
            pixels, text = image.read(), query_text(objects[0].name)
            maps = similarity(pixels, [text])
            samples.append(
                SimilaritySample(image.path.name, pixels, text,
                                 maps.backbone[0], maps.regions[0],
                                 objects[0].box))
    return samples


def pointing_game(
        similarity: TextSimilarity,
        images: Sequence[AnnotatedImage]) -> Optional[PointingGame]:
    """Count how often the maps are highest inside the object asked for.

    Args:
        similarity (TextSimilarity): A model with a box head.
        images (Sequence[AnnotatedImage]): Images; objects whose class occurs
            twice in an image are left out.

    Returns:
        PointingGame | None: None if there is no object to ask for.
    """
    hits: List[Tuple[bool, bool, float]] = []
    for image in images:
        objects = single_objects(image)
        if not objects:
            continue
        pixels = image.read()
        maps = similarity(pixels, [query_text(o.name) for o in objects])
        size = pixels.shape[:2]
        for item, before, after in zip(
                objects, maps.backbone, maps.regions, strict=True):
            x1, y1, x2, y2 = item.box
            hits.append((peak_in_box(before, item.box, size),
                         peak_in_box(after, item.box, size),
                         (x2 - x1) * (y2 - y1) / (size[0] * size[1])))
    if not hits:
        return None
    means = np.mean(hits, axis=0).tolist()
    return PointingGame(len(images), len(hits), *means)
