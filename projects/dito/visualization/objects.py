# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""An object to draw: annotated, or found and judged."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou, nms

from dito.models.roi_heads.box_masks import crop_rle
from dito.models.text.name_checks import readable_name

#: x1, y1, x2, y2 in pixels.
Box = tuple[float, float, float, float]
Color = tuple[int, int, int]
#: Column and row of a part of a picture, and its bool pixels (h, w).
Crop = tuple[int, int, np.ndarray]

# RGB. Blue and orange stay apart for colour-blind eyes, and on light and dark.
# What is wrong or missing differs by its sign and its line too.
BASE_COLOR: Color = (37, 99, 235)
NOVEL_COLOR: Color = (217, 84, 10)
WRONG_COLOR: Color = (190, 24, 130)
MISSED_COLOR: Color = (71, 80, 92)
#: Detections that overlap by more than this IoU are not shown together.
SHOWN_IOU = 0.5
# Least overlap of a detection with its object.
_HIT_IOU = 0.5
HIT, WRONG, MISSED = 'hit', 'wrong', 'missed'
#: What colours and signs of judged pictures mean, in the legend's order.
LEGEND = (
    ('✓', BASE_COLOR, 'base class, found'),
    ('✓', NOVEL_COLOR, 'novel class, found'),
    ('✗', WRONG_COLOR, 'wrong name or no object'),
    ('–', MISSED_COLOR, 'object missed'),
)
_SIGNS = {HIT: '✓ ', WRONG: '✗ ', MISSED: '– '}
_VERDICT_COLORS = {WRONG: WRONG_COLOR, MISSED: MISSED_COLOR}


@dataclass(frozen=True)
class ShownObject:
    """One object of a picture, annotated or found."""

    box: Box
    name: str
    novel: bool  #: Whether the class has no boxes in the training.
    score: float | None = None  #: Of a detection.
    #: Bool, shape (H, W) of the picture; COCO's run lengths, read when it is
    #: drawn; or a part of the picture.
    mask: np.ndarray | dict | Crop | None = None
    verdict: str = ''  #: HIT, WRONG or MISSED; empty if it was not judged.
    track: int = -1  #: Its number in a film, if it has one.

    @property
    def label(self) -> str:
        """What is written at the box, with the score in percent."""
        name = _SIGNS.get(self.verdict, '') + readable_name(self.name)
        if self.track >= 0:
            name = f'#{self.track} {name}'
        if self.score is None:
            return name
        return f'{name} {100 * self.score:.0f} %'

    @property
    def color(self) -> Color:
        """By what it was judged, else by the kind of its class."""
        own = NOVEL_COLOR if self.novel else BASE_COLOR
        return _VERDICT_COLORS.get(self.verdict, own)

    def crop(self, shape: tuple[int, int]) -> Crop | None:
        """The part of a picture (H, W) that the mask covers; None without.

        ValueError if the mask is one of a picture of another shape.
        """
        if self.mask is None or isinstance(self.mask, tuple):
            return self.mask
        coded = isinstance(self.mask, dict)
        own = tuple(self.mask['size'] if coded else self.mask.shape)
        if own != tuple(shape):
            raise ValueError(
                f'The mask of {self.name!r} has shape {own}, '
                f'the image {tuple(shape)}.'
            )
        return crop_rle(self.mask) if coded else crop_pixels(self.mask)


def crop_pixels(mask: np.ndarray) -> Crop:
    """The part of a bool mask (H, W) that is not empty, with its corner."""
    if not mask.size:
        return 0, 0, mask
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, mask[y : y + height, x : x + width]


def from_prediction(
    result: dict[str, Any], novel: Collection[str]
) -> list[ShownObject]:
    """Objects of a result of :func:`dito.apis.results.to_dict`, best first."""
    names, boxes = result['names'], result['bboxes']
    masks = result.get('masks') or [None] * len(names)
    return [
        ShownObject(tuple(box), name, name in novel, *rest)
        for name, box, *rest in zip(
            names, boxes, result['scores'], masks, strict=True
        )
    ]


def _boxes(objects: Sequence[ShownObject]) -> torch.Tensor:
    return torch.tensor([o.box for o in objects]).reshape(-1, 4).float()


def distinct(
    objects: Sequence[ShownObject], iou: float = SHOWN_IOU
) -> list[ShownObject]:
    """Of detections that overlap by more than an IoU the best alone.

    Their names do not matter; an IoU of 1 keeps all. The best come first.
    """
    scores = torch.tensor([float(o.score) for o in objects])
    return [objects[i] for i in nms(_boxes(objects), scores, iou).tolist()]


def judge(
    found: Sequence[ShownObject], truth: Sequence[ShownObject]
) -> list[ShownObject]:
    """Tell hits, wrong names and missed objects apart.

    Each detection, best first, takes the annotated object that it overlaps
    most among those of its name that are free: a hit. Any other detection is
    wrong. An object that no hit takes, and that no wrong detection lies on, is
    missed, and comes last.
    """
    overlaps = box_iou(_boxes(found), _boxes(truth)).numpy()
    free, covered, judged = set(range(len(truth))), set(), []
    for item, row in zip(found, overlaps, strict=True):
        near = [i for i in np.argsort(-row).tolist() if row[i] >= _HIT_IOU]
        own = [i for i in near if i in free and truth[i].name == item.name]
        free -= set(own[:1])
        covered |= set(near)
        judged.append(replace(item, verdict=HIT if own else WRONG))
    return judged + [
        replace(truth[i], mask=None, verdict=MISSED)
        for i in sorted(free - covered)
    ]
