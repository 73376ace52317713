# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Compare an exported file with the detector before the file is left."""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from dito.apis import DITOInferencer
from dito.models.text import Vocabulary
from dito.utils.files import replacing

from .graph import Found
from .runner import Names, Runner

# Batch, rows and columns in steps of the size, and names of each test.
CASES = ((2, 1, 1, 1), (1, 1, 2, 3), (3, 2, 1, 20))
# Batches, then images, are smaller where those of a test would take more than
# two images of 1024 x 1024: in an engine attention over all of an image takes
# memory by the square of its pixels, over 3 GB for such a pair.
MOST_SQUARED = 2 * (1024**2) ** 2
# Side in pixels up to which boxes are compared in pixels.
SIDE = 256


class Differences(NamedTuple):
    """How far detections are from PyTorch's.

    Attributes:
        boxes (float): Pixels of the input, as if a longer side had 256 of
            them: the precision of a coordinate is relative.
        scores (float): Of detections in both; or the score of one that has no
            counterpart, as far as it is above the last of a full list.
        masks (float): Probabilities.
    """

    boxes: float = 0.0
    scores: float = 0.0
    masks: float = 0.0

    def worst(self, other: 'Differences') -> 'Differences':
        """The larger of each."""
        return Differences(*map(max, self, other))

    def __str__(self) -> str:
        return (
            f'{self.boxes:.2g} pixels, {self.scores:.2g} in scores and '
            f'{self.masks:.2g} in masks'
        )


# How far a file may be from PyTorch by its precision: any detection of
# float32; detections on average else, since where weights are rounded a single
# box may win or lose against its neighbour.
TOLERANCES = dict(
    float32=Differences(1e-3, 1e-3, 1e-3),
    float16=Differences(1e-1, 1e-2, 1e-2),
    int8=Differences(5e-1, 1e-1, 2.5e-1),
)


def write_tested(
    path: str | Path,
    write: Callable[[Path], Any],
    inferencer: DITOInferencer,
    vocabulary: Vocabulary | None,
    precision: str = 'float32',
    engine: Any = 'onnxruntime',
) -> Differences:
    """Leave a file only if it has passed its test.

    Args:
        path (str | Path): The file.
        write (Callable): Writes it to the path it is given.
        inferencer (DITOInferencer): The detector.
        vocabulary (Vocabulary, optional): What is folded in, if anything.
        precision (str): Key of :data:`TOLERANCES`.
        engine (str | Callable): See :class:`.runner.Runner`.

    Returns:
        Differences: As of :func:`self_test`.

    Raises:
        ValueError: If the file differs by more; there is none then.
    """
    with replacing(path) as unfinished:
        write(unfinished)
        found = self_test(
            unfinished, inferencer, vocabulary, engine, precision
        )
        tolerance = TOLERANCES[precision]
        if found.worst(tolerance) != tolerance:
            raise ValueError(
                f'The file differs from PyTorch by {found}, more than '
                f'{tolerance}, and was not written; try other versions of '
                'torch and of what runs the file.'
            )
    return found


def self_test(
    path: str | Path,
    inferencer: DITOInferencer,
    vocabulary: Vocabulary | None,
    engine: Any = 'onnxruntime',
    precision: str = 'float32',
) -> Differences:
    """Compare a file with the detector it was made of.

    Args:
        path (str | Path): The file.
        inferencer (DITOInferencer): The detector.
        vocabulary (Vocabulary, optional): What was folded in, if anything.
        engine (str | Callable): See :class:`.runner.Runner`.
        precision (str): What the file has.

    Returns:
        Differences: The largest of float32; else their means.
    """
    every: list[Differences] = []
    rng = np.random.default_rng(0)
    model = inferencer.model
    runner: Runner | None = None
    for batch, rows, columns, count in CASES:
        names = vocabulary or _draw_names(model, count, rng)
        given = None
        if vocabulary is None:
            given = Names(
                names.names,
                names.embeddings.numpy(),
                names.background.numpy(),
                names.novel.numpy(),
            )
        if runner is None or given is not None:
            runner = runner or Runner(path, given, engine)
            runner.set_names(given)
        step = runner.meta['step']
        fitting = MOST_SQUARED // (rows * columns * step**2) ** 2
        if not fitting:
            rows, columns = 1, max(math.isqrt(MOST_SQUARED) // step**2, 1)
            fitting = 1
        scale = SIDE / max(rows * step, columns * step, SIDE)
        images = [
            draw_image(rng, rows * step - cut, columns * step - 2 * cut)
            for cut in range(min(batch, fitting))
        ]
        found = Found(*map(torch.from_numpy, runner.run(images)))
        wanted = detect(model, images, step, names)
        for number, own in enumerate(wanted):
            one = Found(*(None if x is None else x[number] for x in found))
            every += [
                d._replace(boxes=d.boxes * scale)
                for d in differences(one, own)
            ]
    if precision == 'float32':
        return _worst(every)
    return Differences(*np.mean(every, axis=0).tolist())


def _worst(every: list[Differences]) -> Differences:
    return functools.reduce(Differences.worst, every, Differences())


def _draw_names(model: nn.Module, count: int, rng: Any) -> Vocabulary:
    """Classes with random embeddings, every third of them novel."""
    # Like those of texts they are close to each other: of distant ones most
    # scores would be 0 or 1, and equal.
    dims = model.roi_head.bbox_head.embed_dims
    vectors = rng.normal(size=(1, dims))
    vectors = vectors + 0.3 * rng.normal(size=(count + 1, dims))
    vectors = torch.from_numpy(vectors).float()
    vectors = nn.functional.normalize(vectors, dim=1)
    tower = model.text_encoder
    return Vocabulary(
        tuple(f'name {i}' for i in range(count)),
        vectors[1:],
        vectors[0],
        torch.arange(count) % 3 == 1,
        '' if tower is None else tower.fingerprint(),
    )


def draw_image(rng: Any, height: int, width: int) -> np.ndarray:
    """A normalised picture of plain shapes, float32 (3, H, W)."""
    image = np.empty((3, height, width), np.float32)
    image[:] = rng.normal(size=(3, 1, 1))
    for _ in range(12):
        top, left = rng.integers(height), rng.integers(width)
        part = image[
            :,
            top : top + rng.integers(4, height // 2 + 5),
            left : left + rng.integers(4, width // 2 + 5),
        ]
        part[:] = rng.normal(size=(3, 1, 1))
    return image + rng.normal(size=image.shape, scale=0.05).astype(np.float32)


@torch.no_grad()
def detect(
    model: nn.Module, images: list[np.ndarray], step: int, names: Vocabulary
) -> Iterator[Found]:
    """What the detector itself finds in prepared images.

    Args:
        model (DITO): The detector.
        images (list[ndarray]): Normalised, float32 (3, h, w) each.
        step (int): Both sides of a batch are a multiple of it.
        names (Vocabulary): The classes.

    Yields:
        Found: Of one image; of boxes that were found only.
    """
    sizes = np.array([image.shape[1:] for image in images])
    padded = tuple((-(-sizes.max(0) // step) * step).tolist())
    inputs = torch.zeros(len(images), 3, *padded)
    samples = []
    for place, image in zip(inputs, images, strict=True):
        size = image.shape[1:]
        place[:, : size[0], : size[1]] = torch.from_numpy(image)
        samples.append(
            DetDataSample(
                metainfo=dict(
                    img_shape=size,
                    ori_shape=size,
                    batch_input_shape=padded,
                    scale_factor=(1.0, 1.0),
                    mask_form='box',
                )
            )
        )
        samples[-1].vocabulary = names
    for sample in model.predict(inputs, samples):
        found: InstanceData = sample.pred_instances
        yield Found(
            found.bboxes,
            found.scores,
            found.labels,
            found.get('box_masks'),
        )


def compare(found: Found, wanted: Found) -> Differences:
    """The largest of :func:`differences`."""
    return _worst(differences(found, wanted))


def differences(found: Found, wanted: Found) -> list[Differences]:
    """Differences between the detections of one image, in pairs.

    Neither their order nor the end of a full list is compared where scores
    are equal but for the tolerance: a detection is looked for among those of
    its name.

    Args:
        found (Found): Of a graph, tensors without batch.
        wanted (Found): Of the detector, no more places than ``found``.

    Returns:
        list[Differences]: Of each pair, and of what has no counterpart.
    """
    places = len(found.labels)
    there = found.labels >= 0
    found = Found(*(None if x is None else x[there] for x in found))
    full = places == len(wanted.labels) == len(found.labels)
    least = 0.0
    if full:
        least = max(float(found.scores.min()), float(wanted.scores.min()))
    apart = (found.boxes[:, None] - wanted.boxes).abs().amax(2)
    apart = apart + (found.scores[:, None] - wanted.scores).abs()
    other = found.labels[:, None] != wanted.labels
    pairs = apart.masked_fill(other, torch.inf)
    every: list[Differences] = []
    rows, columns = set(), set()
    for place in pairs.flatten().argsort().tolist():
        row, column = divmod(place, pairs.shape[1])
        if pairs[row, column] > 1:
            break
        if row in rows or column in columns:
            continue
        rows.add(row)
        columns.add(column)
        every.append(_differ(found, row, wanted, column))
    for own, paired in ((found, rows), (wanted, columns)):
        for i, score in enumerate(own.scores.tolist()):
            if i not in paired:
                every.append(Differences(scores=max(score - least, 0.0)))
    return every


def _differ(one: Found, i: int, two: Found, j: int) -> Differences:
    """Differences of two detections."""
    return Differences(
        *(
            0.0 if a is None or b is None else _apart(a[i], b[j])
            for a, b in (
                (one.boxes, two.boxes),
                (one.scores, two.scores),
                (one.masks, two.masks),
            )
        )
    )


def _apart(one: Tensor, two: Tensor) -> float:
    """Largest difference, infinite where one of both alone is no number."""
    apart = (one - two).abs().nan_to_num(nan=0.0)
    return float(
        apart.masked_fill(one.isnan() != two.isnan(), torch.inf).max()
    )
