# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""An object to draw: annotated, or found and judged."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou, nms

from dito.models.roi_heads.box_masks import crop_rle
from dito.models.text.templates import readable_name

from .colors import (
    BASE_COLOR,
    MISSED_COLOR,
    NOVEL_COLOR,
    WRONG_COLOR,
    Color,
)

#: Column and row of a part of a picture, and its bool pixels (h, w).
Crop = tuple[int, int, np.ndarray]
#: Detections that overlap by more than this IoU are not shown together.
SHOWN_IOU = 0.5
HIT, WRONG, MISSED = 'hit', 'wrong', 'missed'
#: What colours and signs of judged pictures mean, in the legend's order.
LEGEND = (
    ('✓', BASE_COLOR, 'base class, found'),
    ('✓', NOVEL_COLOR, 'novel class, found'),
    ('✗', WRONG_COLOR, 'wrong name or no object'),
    ('–', MISSED_COLOR, 'object missed'),
)
_SIGNS = {HIT: '✓ ', WRONG: '✗ ', MISSED: '– '}


@dataclass(frozen=True)
class ShownObject:
    """One object of a picture.

    Attributes:
        box (tuple[float, float, float, float]): x1, y1, x2, y2 in pixels.
        name (str): Class name.
        novel (bool): Whether the class has no boxes in the training.
        score (float, optional): Score of a detection; None for an
            annotation.
        mask (np.ndarray | dict | tuple, optional): Bool, shape (H, W) of
            the picture; COCO's run lengths, read when it is drawn; or a part
            of the picture: column and row of its corner and bool pixels.
        verdict (str): ``HIT``, ``WRONG`` or ``MISSED``; empty where nothing
            was judged.
    """

    box: tuple[float, float, float, float]
    name: str
    novel: bool
    score: float | None = None
    mask: np.ndarray | dict | Crop | None = None
    verdict: str = ''

    @property
    def label(self) -> str:
        """What is written at the box, with the score in percent."""
        name = _SIGNS.get(self.verdict, '') + readable_name(self.name)
        return name if self.score is None else (
            f'{name} {100 * self.score:.0f} %')

    @property
    def color(self) -> Color:
        """By what it was judged, else by the kind of its class."""
        other = {WRONG: WRONG_COLOR, MISSED: MISSED_COLOR}
        return other.get(self.verdict,
                         NOVEL_COLOR if self.novel else BASE_COLOR)

    def crop(self, shape: tuple[int, int]) -> Crop | None:
        """The part of a picture that the mask covers.

        Args:
            shape (tuple[int, int]): Height and width of the picture.

        Returns:
            tuple | None: Column and row of the corner, bool pixels (h, w).

        Raises:
            ValueError: If the mask is one of a picture of another shape.
        """
        if self.mask is None or isinstance(self.mask, tuple):
            return self.mask
        own = tuple(self.mask['size'] if isinstance(self.mask, dict) else
                    self.mask.shape)
        if own != tuple(shape):
            raise ValueError(f'The mask of {self.name!r} has shape {own}, '
                             f'the image {tuple(shape)}.')
        return (crop_rle(self.mask) if isinstance(self.mask, dict) else
                crop_pixels(self.mask))


def crop_pixels(mask: np.ndarray) -> Crop:
    """The part of a bool mask (H, W) that is not empty, with its corner."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, mask[:0, :0]
    x, y = int(columns[0]), int(rows[0])
    return x, y, mask[y:rows[-1] + 1, x:columns[-1] + 1]


def from_prediction(result: dict[str, Any],
                    novel: Collection[str]) -> list[ShownObject]:
    """Objects of one image's result.

    Args:
        result (dict): As :func:`dito.apis.results.to_dict` makes it, and as
            ``tools/detect.py`` writes it to ``preds/``.
        novel (collection[str]): Names of the novel classes.

    Returns:
        list[ShownObject]: In the order of the result, best first.
    """
    masks: list[Any] = result.get('masks') or [None] * len(result['names'])
    return [
        ShownObject(tuple(box), name, name in novel, score, mask)
        for box, name, score, mask in zip(
            result['bboxes'],
            result['names'],
            result['scores'],
            masks,
            strict=True)
    ]


def _boxes(objects: Sequence[ShownObject]) -> torch.Tensor:
    return torch.tensor([o.box for o in objects]).reshape(-1, 4).float()


def distinct(objects: Sequence[ShownObject],
             iou: float = SHOWN_IOU) -> list[ShownObject]:
    """Of detections that overlap the best alone, whatever their names.

    Args:
        objects (Sequence[ShownObject]): Detections with scores.
        iou (float): Overlap above which they count as one object; 1 keeps
            all. Defaults to ``SHOWN_IOU``.

    Returns:
        list[ShownObject]: Best first.
    """
    scores = torch.tensor([o.score for o in objects])
    return [objects[i] for i in nms(_boxes(objects), scores, iou).tolist()
            ] if objects else []


def judge(found: Sequence[ShownObject], truth: Sequence[ShownObject],
          iou: float = 0.5) -> list[ShownObject]:
    """Tell hits, wrong names and missed objects apart.

    Each detection, best first, takes the annotated object that it overlaps
    most among those of its name that are free: a hit. Any other detection is
    wrong. An object that no hit takes, and that no wrong detection lies on,
    is missed.

    Args:
        found (Sequence[ShownObject]): Detections, best first.
        truth (Sequence[ShownObject]): Annotations.
        iou (float): Least overlap of a detection with its object.

    Returns:
        list[ShownObject]: The detections with a verdict, then what was
        missed.
    """
    overlaps = box_iou(_boxes(found), _boxes(truth)).numpy()
    free, covered, judged = set(range(len(truth))), set(), []
    for item, row in zip(found, overlaps, strict=True):
        near = [i for i in np.argsort(-row).tolist() if row[i] >= iou]
        own = [i for i in near if i in free and truth[i].name == item.name]
        free -= set(own[:1])
        covered |= set(near)
        judged.append(replace(item, verdict=HIT if own else WRONG))
    return judged + [
        replace(truth[i], mask=None, verdict=MISSED)
        for i in sorted(free - covered)
    ]
