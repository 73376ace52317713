# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A rendered picture and the objects in it."""

from dataclasses import dataclass, field

import cv2
import numpy as np


@dataclass
class Placed:
    """One object of a picture.

    Args:
        index (int): Position of its glyph in the atlas.
        colour (str): Name of its colour.
        total (int): Pixels of its glyph, hidden ones included.
        mask (np.ndarray): Visible pixels, (size, size) bool.
    """

    index: int
    colour: str
    total: int
    mask: np.ndarray

    @property
    def visible(self) -> float:
        """Visible share of its pixels, in [0, 1]."""
        return float(self.mask.sum()) / max(self.total, 1)

    def bbox(self) -> tuple[int, int, int, int]:
        """Return the box of the visible pixels as x, y, w, h."""
        rows = np.flatnonzero(self.mask.any(axis=1))
        cols = np.flatnonzero(self.mask.any(axis=0))
        if not rows.size:
            return 0, 0, 0, 0
        x, y = int(cols[0]), int(rows[0])
        return x, y, int(cols[-1]) - x + 1, int(rows[-1]) - y + 1


@dataclass
class Picture:
    """A rendered picture and what is in it.

    Args:
        image (np.ndarray): RGB, (size, size, 3), uint8.
        objects (list[Placed]): The painted objects, back to front.
    """

    image: np.ndarray
    objects: list[Placed] = field(default_factory=list)

    def jpeg(self, quality: int = 90) -> bytes:
        """Encode the picture as JPEG bytes."""
        bgr = cv2.cvtColor(self.image, cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(
            '.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        if not done:
            raise ValueError(
                f'OpenCV could not encode a {self.image.shape} picture.'
            )
        return data.tobytes()
