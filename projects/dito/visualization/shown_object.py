# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""An object to draw: annotated, or found."""

from dataclasses import dataclass
from typing import Any, Collection, Dict, List, Optional, Tuple

import numpy as np
from pycocotools import mask as coco_mask

from dito.models.text.templates import readable_name


@dataclass(frozen=True)
class ShownObject:
    """One object of a picture.

    Attributes:
        box (tuple[float, float, float, float]): x1, y1, x2, y2 in pixels.
        name (str): Class name.
        novel (bool): Whether the class has no boxes in the training.
        score (float, optional): Score of a detection; None for an
            annotation.
        mask (np.ndarray, optional): Bool, shape (H, W) of the picture.
    """

    box: Tuple[float, float, float, float]
    name: str
    novel: bool
    score: Optional[float] = None
    mask: Optional[np.ndarray] = None

    @property
    def label(self) -> str:
        """What is written at the box."""
        name = readable_name(self.name)
        return name if self.score is None else f'{name} {self.score:.2f}'


def from_prediction(result: Dict[str, Any],
                    novel: Collection[str]) -> List[ShownObject]:
    """Objects of one image's result.

    Args:
        result (dict): As :func:`dito.apis.results.to_dict` makes it, and as
            ``tools/detect.py`` writes it to ``preds/``.
        novel (collection[str]): Names of the novel classes.

    Returns:
        list[ShownObject]: In the order of the result, best first.
    """
    masks: List[Any] = result.get('masks') or [None] * len(result['names'])
    return [
        ShownObject(
            tuple(box), name, name in novel, score,
            None if mask is None else coco_mask.decode(mask).astype(bool))
        for box, name, score, mask in zip(
            result['bboxes'],
            result['names'],
            result['scores'],
            masks,
            strict=True)
    ]
