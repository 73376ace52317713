# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Masks within boxes, and what they are in their images: run lengths.

MMDetection pastes all masks of an image into arrays of its size: 300 of a
photo of 12 megapixels take 3.6 GB. Here each goes from its box into run
lengths, a few columns at a time.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Union

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

# Pixels of a mask that are sampled at a time; a pixel takes about 24 bytes.
_PIXELS = 1 << 20

Shape = tuple[int, int]
Region = tuple[int, int, int, int]


class MaskPart(NamedTuple):
    """A mask (h, w) within a part of a box: x1, y1, x2, y2 as its shares."""

    mask: Tensor
    place: tuple[float, float, float, float]


#: Of one box; of several parts it is the union.
BoxMask = Tensor | Sequence[MaskPart]


class RunLengthMasks:
    """The masks of an image as COCO's run lengths.

    A sequence of RLE dicts (``size``, ``counts``), as metrics take them.
    What reads MMDetection's masks reads these too: :meth:`numpy` and
    :meth:`to_tensor` give the pixels, which take N x H x W bytes.

    Args:
        rles (Sequence[dict]): N masks.
        shape (tuple[int, int]): Height H and width W of the image.
    """

    def __init__(self, rles: Sequence[dict], shape: Shape) -> None:
        self._rles = list(rles)
        self._size = (int(shape[0]), int(shape[1]))

    def __len__(self) -> int:
        return len(self._rles)

    def __getitem__(self, item: Any) -> Union[dict, 'RunLengthMasks']:
        if isinstance(item, (int, np.integer)):
            return self._rles[item]
        if isinstance(item, Tensor):
            item = item.cpu().numpy()
        rows = np.arange(len(self))[item].tolist()
        return RunLengthMasks([self._rles[i] for i in rows], self._size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W)."""
        return len(self), *self._size

    @staticmethod
    def cat(parts: Sequence['RunLengthMasks']) -> 'RunLengthMasks':
        """Join masks of one image, as :class:`InstanceData` does."""
        return RunLengthMasks(
            [rle for part in parts for rle in part], parts[0].shape[1:]
        )

    def numpy(self) -> np.ndarray:
        """The pixels, bool (N, H, W)."""
        pixels = np.zeros(self.shape, bool)
        for row, rle in zip(pixels, self._rles, strict=True):
            row[:] = coco_mask.decode(rle)
        return pixels

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        pixels = self.numpy()
        return pixels if dtype is None else pixels.astype(dtype)

    def astype(self, dtype: Any) -> np.ndarray:
        """The pixels (N, H, W) as numbers of a type."""
        return self.__array__(dtype)

    def to_tensor(
        self, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        """The pixels as a tensor (N, H, W), bool by default."""
        return torch.from_numpy(self.numpy()).to(device, dtype)

    def to(self, *args: Any, **kwargs: Any) -> 'RunLengthMasks':
        """The same: run lengths are on no device."""
        return self

    cpu = cuda = detach = to


def paste_masks(
    masks: Sequence[BoxMask],
    boxes: Tensor,
    shape: Shape,
    threshold: float = 0.5,
) -> RunLengthMasks:
    """Paste N masks into their image, one at a time.

    What MMDetection's pasting gives, as run lengths. Masks are probabilities,
    a tensor (N, h, w) or one of each box; boxes are in pixels of the image.
    """
    boxes = boxes.detach().float().cpu()
    if isinstance(masks, Tensor):
        masks = masks.detach().float().cpu()
    found = []
    for mask, box in zip(masks, boxes, strict=True):
        rles = [
            _paste_rle(part, place, shape, threshold)
            for part, place in _parts(mask, box)
        ]
        found.append(rles[0] if len(rles) == 1 else coco_mask.merge(rles))
    return RunLengthMasks(found, shape)


def paste_crop(
    mask: BoxMask, box: Tensor, shape: Shape, threshold: float = 0.5
) -> tuple[int, int, np.ndarray]:
    """The part of an image that a pasted mask may cover.

    Column and row of its corner, and bool pixels, of which there may be none.
    """
    crops = [
        crop
        for part, place in _parts(mask, box.detach().float().cpu())
        if (crop := _paste_crop(part, place, shape, threshold)) is not None
    ]
    if not crops:
        return 0, 0, np.zeros((0, 0), bool)
    left, top = (min(crop[i] for crop in crops) for i in (0, 1))
    width, height = (
        max(crop[i] + crop[2].shape[1 - i] for crop in crops) - start
        for i, start in ((0, left), (1, top))
    )
    pixels = np.zeros((height, width), bool)
    for x, y, part in crops:
        rows, columns = part.shape
        pixels[y - top :, x - left :][:rows, :columns] |= part
    return left, top, pixels


def _parts(mask: BoxMask, box: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Masks of a box on the CPU, each with its own box."""
    if isinstance(mask, Tensor):
        return [(mask.detach().float().cpu(), box)]
    corner, size = box[:2].repeat(2), (box[2:] - box[:2]).repeat(2)
    return [
        (part.detach().float().cpu(), corner + size * box.new_tensor(place))
        for part, place in mask
    ]


def _paste_crop(
    mask: Tensor, box: Tensor, shape: Shape, threshold: float
) -> tuple[int, int, np.ndarray] | None:
    """As :func:`paste_crop`, of one mask; None outside the image."""
    region = _region(box, shape)
    if region is None:
        return None
    columns = [part for _, part in _columns(mask, box, region, threshold)]
    return region[0], region[1], np.concatenate(columns).T


def crop_rle(rle: dict) -> tuple[int, int, np.ndarray]:
    """Corner (column, row) and bool pixels that run lengths cover."""
    left, top, width, height = map(int, coco_mask.toBbox(rle))
    pixels = coco_mask.decode(rle)[top : top + height, left : left + width]
    return left, top, pixels.astype(bool)


def _paste_rle(
    mask: Tensor, box: Tensor, shape: Shape, threshold: float
) -> dict:
    """RLE of a mask that is pasted into its image."""
    height, width = map(int, shape)
    ends: list[np.ndarray] = [np.zeros(1, np.int64)]
    region = _region(box, (height, width))
    if region is not None:
        for column, part in _columns(mask, box, region, threshold):
            padded = np.pad(part, ((0, 0), (1, 1)))
            x, y = np.nonzero(padded[:, 1:] != padded[:, :-1])
            ends.append((column + x) * height + region[1] + y)
    where = np.append(np.concatenate(ends), height * width)
    # A run that goes on at the top of the next column.
    same = where[1:-1] == where[:-2]
    same[:1] = False
    joined = np.zeros(len(where), bool)
    joined[1:-1] |= same
    joined[:-2] |= same
    runs = np.diff(where[~joined])
    if len(runs) > 1 and runs[-1] == 0:
        runs = runs[:-1]
    return coco_mask.frPyObjects(
        dict(size=[height, width], counts=runs.tolist()), height, width
    )


def _region(box: Tensor, shape: Shape) -> Region | None:
    """First and end of columns and rows a box may reach, None of none."""
    left, top, right, bottom = box.tolist()
    if not (left <= right and top <= bottom):
        return None
    x0, y0 = (math.floor(max(v, 0)) for v in (left, top))
    x1, y1 = (
        math.ceil(min(v, side)) + 1
        for v, side in zip((right, bottom), shape[::-1], strict=True)
    )
    region = (
        max(x0 - 1, 0),
        max(y0 - 1, 0),
        min(x1, shape[1]),
        min(y1, shape[0]),
    )
    inside = region[0] < region[2] and region[1] < region[3]
    return region if inside else None


def _columns(
    mask: Tensor, box: Tensor, region: Region, threshold: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Pasted pixels of a region, bool (columns, rows), some at a time."""
    left, top, right, bottom = region
    columns = _places(left, right, box[0], box[2])
    rows = _places(top, bottom, box[1], box[3])
    step = max(_PIXELS // max(len(rows), 1), 1)
    for start in range(0, len(columns), step):
        part = columns[start : start + step]
        grid = torch.stack(
            [part[:, None].expand(-1, len(rows)), rows.expand(len(part), -1)],
            -1,
        )
        values = F.grid_sample(
            mask[None, None], grid[None], align_corners=False
        )[0, 0]
        yield left + start, (values >= threshold).numpy()


def _places(first: int, last: int, low: Tensor, high: Tensor) -> Tensor:
    """Centres of pixels within a box, from -1 to 1."""
    pixels = torch.arange(first, last).float() + 0.5
    places = (pixels - low) / (high - low) * 2 - 1
    return torch.where(places.isinf(), 0, places)
