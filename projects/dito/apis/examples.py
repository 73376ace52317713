# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures of things instead of their names.

Embeddings of regions and of texts come from one space but lie in two parts
of it: two regions are more alike than a region and its name. An example is
therefore described by what it has and a grey picture has not, and this
difference is put where texts are, so that examples and names compete.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor

from dito.datasets.reduced_image import upright_size

from .pictures import Image, as_image, refuse_films
from .scene import Scene

Box = Sequence[float]
#: A picture of the thing alone; or a picture, or a scene, and a box in it.
Example = Image | tuple[Image | Scene, Box]

# An example fills a third of its picture's sides, as objects of scenes do.
_CANVAS = 3
# Sides below which a picture shows nothing, in pixels.
_LEAST = 4
_GREY = 127
_WITH_BOX = re.compile(r'(.+)@([-\d.]+),([-\d.]+),([-\d.]+),([-\d.]+)')


class Frame(NamedTuple):
    """Where regions and texts of a detector lie.

    ``regions`` is the mean of both embeddings over the regions of a grey
    picture, (2, D), or (1, D) without a VLM score; ``texts`` that of known
    names, (D, ), and ``spread`` their mean distance from it.
    """

    regions: Tensor
    texts: Tensor
    spread: float


def make_frame(detector: Any, texts: Tensor) -> Frame:
    """Measure where regions and two known names or more, (K, D), lie."""
    grey = detector.encode(np.full((256, 256, 3), _GREY, np.uint8), maps=False)
    mean = texts.mean(dim=0)
    return Frame(
        _both(grey.image.regions).mean(dim=1),
        mean,
        float((texts - mean).norm(dim=1).mean()),
    )


def embed_examples(
    detector: Any, frame: Frame, examples: Sequence[Example]
) -> Tensor:
    """Embed examples of one thing as its name would be: a unit vector, (D, ).

    Raises:
        FileNotFoundError: If a picture does not exist.
        ValueError: If one cannot be decoded, is too small, or a box lies
            outside its picture.
    """
    found = torch.stack([_region(detector, e) for e in examples])
    # Each embedding counts as much as the other, however they spread.
    parts = F.normalize(found.mean(dim=0) - frame.regions, dim=-1)
    direction = F.normalize(parts.sum(dim=0), dim=-1)
    return F.normalize(frame.texts + frame.spread * direction, dim=-1)


def as_list(examples: Any) -> list[Any]:
    """Examples of one thing, which may be given without a list."""
    one = isinstance(examples, (*get_args(Image), Scene)) or (
        isinstance(examples, tuple)
        and len(examples) == 2
        and not isinstance(examples[1], (str, Path))
        and np.shape(examples[1]) == (4,)
    )
    if not one and not isinstance(examples, Iterable):
        raise ValueError(
            'An example is a picture, or (picture, box), got '
            f'{type(examples).__name__}.'
        )
    found = [examples] if one else list(examples)
    if not found:
        raise ValueError('An empty list of examples shows nothing; give one.')
    return found


def check_examples(examples: Any) -> dict[str, list[Any]]:
    """Examples by name; ValueError if they have none, or a name has none."""
    if not isinstance(examples, Mapping):
        raise ValueError(
            "Examples are given by name: {'my mug': ['mug.jpg', ...]}, got "
            f'{type(examples).__name__}.'
        )
    return {name: as_list(given) for name, given in examples.items()}


def parse_example(text: str) -> Any:
    """Read 'mug.png' or 'desk.jpg@10,20,80,90', with a box in pixels."""
    found = _WITH_BOX.fullmatch(text)
    if found is None or Path(text).exists():
        return text
    try:
        return found[1], tuple(map(float, found.groups()[1:]))
    except ValueError:
        raise ValueError(
            f'{text!r} has no box x1,y1,x2,y2 in pixels behind the @; write '
            'picture.jpg@10,20,80,90.'
        ) from None


def typed_example(text: str) -> Any:
    """As :func:`parse_example`; what the file shows is checked too.

    Raises:
        FileNotFoundError: If there is no such picture.
        ValueError: If it is a film or too small, or the box does not lie in
            it.
    """
    example = parse_example(text)
    picture, box = example if isinstance(example, tuple) else (example, None)
    path = as_image(picture)
    refuse_films([path])
    if not isinstance(path, str) or '://' in path:
        return example
    size = upright_size(Path(path).read_bytes())
    if size is not None:
        height, width = size
        whole = 0, 0, width, height
        _check_box(whole if box is None else box, (width, height), path)
    return example


def _region(detector: Any, example: Example) -> Tensor:
    """Both embeddings of an example, normalised, (2, D) or (1, D)."""
    box: Any = None
    picture: Any = example
    if isinstance(example, tuple):
        if len(example) != 2:
            raise ValueError(
                'An example is a picture, or (picture, box) with a box x1, '
                f'y1, x2, y2 in pixels, got {len(example)} values.'
            )
        picture, box = example
    if not isinstance(picture, Scene):
        pixels, box = _on_canvas(detector.read_picture(picture), box, picture)
        picture = detector.encode(pixels)
    box = _check_box(box, picture.shape[::-1], picture.path or 'the scene')
    image = picture.image
    maps = image.require_maps()
    with torch.no_grad():
        pyramid = image.pyramid_by(detector.model.neck)
        boxes = image.regions.boxes.new_tensor([box])
        scale = boxes.new_tensor(image.metainfo['scale_factor'])
        (region,) = detector.model.roi_head.regions(
            pyramid,
            [
                InstanceData(
                    bboxes=boxes * scale.repeat(2), scores=boxes.new_ones(1)
                )
            ],
            [image.metainfo],
            maps.vlm_feat,
        )
    return _both(region)[:, 0]


def _both(regions: Any) -> Tensor:
    """Embeddings of regions, normalised, on the CPU, (2, N, D)."""
    parts = [e for e in (regions.embeds, regions.vlm) if e is not None]
    return F.normalize(torch.stack(parts).float().cpu(), dim=-1)


def _on_canvas(
    item: dict[str, Any], box: Any, name: Any
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Put what a box shows into a plain picture; its place there."""
    pixels, (height, width) = item['img'], item['ori_shape']
    name = name if isinstance(name, (str, Path)) else 'the array'
    box = _check_box(
        (0, 0, width, height) if box is None else box, (width, height), name
    )
    # A very large picture is read at a reduced size.
    down = pixels.shape[1] / width, pixels.shape[0] / height
    x1, y1, x2, y2 = (round(v * s) for v, s in zip(box, down * 2, strict=True))
    crop = pixels[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
    edge = np.concatenate([crop[0], crop[-1], crop[:, 0], crop[:, -1]])
    h, w = crop.shape[:2]
    canvas = np.empty((h * _CANVAS, w * _CANVAS, 3), np.uint8)
    canvas[:] = np.median(edge, axis=0)
    top, left = (canvas.shape[0] - h) // 2, (canvas.shape[1] - w) // 2
    canvas[top : top + h, left : left + w] = crop
    return canvas, (left, top, left + w, top + h)


def _check_box(
    box: Any, size: tuple[int, int], name: Any
) -> tuple[float, ...]:
    """Refuse a box that shows nothing of its picture."""
    if box is None:
        raise ValueError('A scene as example needs a box: (scene, box).')
    try:
        x1, y1, x2, y2 = values = tuple(float(v) for v in box)
    except (TypeError, ValueError):
        raise ValueError(
            f'The box of an example is x1, y1, x2, y2 in pixels, got {box!r}.'
        ) from None
    shown = ', '.join(f'{v:g}' for v in values)
    width, height = size
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ValueError(
            f'The box ({shown}) of an example does not lie in {name}, which '
            f'has {width} x {height} pixels; give x1, y1, x2, y2 within it.'
        )
    if min(x2 - x1, y2 - y1) < _LEAST:
        raise ValueError(
            f'An example of {x2 - x1:g} x {y2 - y1:g} pixels ({name}) shows '
            f'nothing; give one of {_LEAST} x {_LEAST} or more.'
        )
    return values
