# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A rendered picture, the objects in it, and where they find a place."""

from dataclasses import dataclass, field

import cv2
import numpy as np


@dataclass
class Placed:
    """One object of a picture.

    ``index`` is the place of its glyph in the atlas, ``total`` its pixels,
    hidden ones included, ``mask`` the visible ones, (size, size) bool.
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
    """A rendered RGB picture, and its objects, back to front."""

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


# Places tried for an object; the box of any other may be covered by so much.
_CROWDING = (0.1,) * 4 + (0.25,) * 4 + (0.6,) * 8
# While objects are placed none may lose more than this of its pixels.
_KEPT = 0.4


def random_corner(
    shape: tuple[int, int], size: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Draw a top left corner (x, y) that keeps a mask in the picture."""
    y = int(rng.integers(size - shape[0] + 1))
    x = int(rng.integers(size - shape[1] + 1))
    return x, y


class Canvas:
    """Keeps who owns each pixel while objects cover one another."""

    def __init__(self, size: int) -> None:
        self.owner = np.full((size, size), -1, np.int16)
        self.totals: list[int] = []
        self.seen: list[int] = []
        self.boxes: list[tuple[int, int, int, int]] = []

    def crowding(self, shape: tuple[int, int], x: int, y: int) -> float:
        """Return the largest share of a box that another box covers."""
        height, width = shape
        share = 0.0
        for left, top, right, bottom in self.boxes:
            across = min(right, x + width) - max(left, x)
            down = min(bottom, y + height) - max(top, y)
            smaller = min(width * height, (right - left) * (bottom - top))
            share = max(share, max(across, 0) * max(down, 0) / smaller)
        return share

    def losses(self, solid: np.ndarray, x: int, y: int) -> np.ndarray:
        """Count the pixels each object would lose, shape (n,)."""
        area = self.owner[y : y + solid.shape[0], x : x + solid.shape[1]]
        hit = area[solid]
        return np.bincount(hit[hit >= 0], minlength=len(self.totals))

    def accepts(self, losses: np.ndarray) -> bool:
        """Tell whether everything below stays visible enough."""
        left = np.array(self.seen) - losses
        return bool(np.all(left >= _KEPT * np.array(self.totals)))

    def claim(
        self, solid: np.ndarray, x: int, y: int, losses: np.ndarray
    ) -> None:
        """Give the pixels of a new object to it."""
        area = self.owner[y : y + solid.shape[0], x : x + solid.shape[1]]
        area[solid] = len(self.totals)
        self.seen = list(np.array(self.seen, int) - losses)
        self.totals.append(int(solid.sum()))
        self.seen.append(self.totals[-1])
        height, width = solid.shape
        self.boxes.append((x, y, x + width, y + height))

    def place(
        self, solid: np.ndarray, rng: np.random.Generator
    ) -> tuple[int, int] | None:
        """Claim a place (x, y) for the pixels of an object, (h, w) bool.

        None if no tried place leaves the others visible.
        """
        size = self.owner.shape[0]
        for limit in _CROWDING:
            x, y = random_corner(solid.shape, size, rng)
            if self.crowding(solid.shape, x, y) > limit:
                continue
            losses = self.losses(solid, x, y)
            if self.accepts(losses):
                self.claim(solid, x, y, losses)
                return x, y
        return None
