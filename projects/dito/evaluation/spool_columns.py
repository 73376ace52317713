# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Columns of detections that stay in files until they are needed."""

import os
from typing import List, Sequence, Tuple, Union

import numpy as np

KEY = np.dtype([('category', '<i8'), ('score', '<f8')])
BODY = np.dtype(
    [
        ('box', '<f8', 4),
        ('offset', '<i8'),
        ('length', '<i4'),
        ('size', '<i4', 2),
    ]
)


# A row number holds the number of its file in the bits from here on.
FILE_BITS = 40


class SpooledBoxes:
    """Boxes in files, read when they are asked for as an array."""

    def __init__(self, bodies: Sequence[np.ndarray], rows: np.ndarray) -> None:
        self._bodies = bodies
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, index: np.ndarray) -> 'SpooledBoxes':
        """Select and reorder; nothing is read."""
        return SpooledBoxes(self._bodies, self._rows[index])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """Boxes x, y, width, height, shape (N, 4), float64."""
        boxes = gather(self._bodies, self._rows)['box'].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return boxes


class SpooledMasks:
    """Run lengths of masks in files: a sequence of RLE dicts."""

    def __init__(
        self,
        bodies: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        rows: np.ndarray,
    ) -> None:
        self._bodies = bodies
        self._masks = masks
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, index: np.ndarray) -> 'SpooledMasks':
        """Select and reorder; nothing is read."""
        return SpooledMasks(self._bodies, self._masks, self._rows[index])

    def __getitem__(self, index: Union[int, slice]) -> Union[dict, List[dict]]:
        if not isinstance(index, slice):
            return self[index : index + 1][0]
        rows = self._rows[index]
        body = gather(self._bodies, rows)
        columns = zip(
            (rows >> FILE_BITS).tolist(),
            body['offset'].tolist(),
            body['length'].tolist(),
            body['size'].tolist(),
            strict=True,
        )
        return [
            dict(size=size, counts=self._masks[file][at : at + n].tobytes())
            for file, at, n, size in columns
        ]


def gather(bodies: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Read rows; the upper bits of a row number are the number of a file."""
    out = np.empty(len(rows), dtype=BODY)
    file = rows >> FILE_BITS
    for number, body in enumerate(bodies):
        own = file == number
        if own.any():
            out[own] = body[rows[own] & ((1 << FILE_BITS) - 1)]
    return out


class SpoolFiles:
    """The files of a spool, mapped into memory for reading."""

    def __init__(self, folder: str) -> None:
        self.keys = _map(os.path.join(folder, 'keys'), KEY)
        self.bodies = _map(os.path.join(folder, 'bodies'), BODY)
        self.masks = _map(os.path.join(folder, 'masks'), np.dtype(np.uint8))

    def parts(self, start: int, count: int) -> Tuple[bytes, ...]:
        """Keys, bodies and masks of some rows as bytes."""
        rows = slice(start, start + count)
        body = self.bodies[rows]
        low = int(body['offset'][0]) if len(body) else 0
        high = low + int(body['length'].sum())
        return (
            self.keys[rows].tobytes(),
            body.tobytes(),
            self.masks[low:high].tobytes(),
        )


def _map(path: str, dtype: np.dtype) -> np.ndarray:
    """Map a file; an empty one cannot be mapped."""
    if not os.path.exists(path) or not os.path.getsize(path):
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode='r')
