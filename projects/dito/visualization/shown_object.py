# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""An object to draw: annotated, or found and judged."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision.ops import box_iou, nms

from dito.models.text.templates import readable_name

from .colors import (
    BASE_COLOR,
    MISSED_COLOR,
    NOVEL_COLOR,
    WRONG_COLOR,
    Color,
)

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
        mask (np.ndarray | dict, optional): Bool, shape (H, W) of the
            picture; or COCO's run lengths, read when it is drawn.
        verdict (str): ``HIT``, ``WRONG`` or ``MISSED``; empty where nothing
            was judged.
    """

    box: tuple[float, float, float, float]
    name: str
    novel: bool
    score: float | None = None
    mask: np.ndarray | dict | None = None
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

    def pixels(self) -> np.ndarray | None:
        """The mask, bool (H, W)."""
        if isinstance(self.mask, dict):
            return coco_mask.decode(self.mask).astype(bool)
        return self.mask


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
