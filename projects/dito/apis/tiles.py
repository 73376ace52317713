# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Large pictures cut into overlapping tiles, and their results joined.

A tile is a picture to the detector. The whole picture is one more view, for
objects that fit in no tile: its other boxes are left to the tiles, which see
them larger. What the views give is put together by these rules:

1. *Where a tile sees more, it decides.* A box that the border of a tile cuts
   and that lies in another tile too, where fewer borders cut it, is left out:
   what it belongs to is seen there, and further. So all that is no longer than
   the overlap is taken from a tile that has it whole.
2. *Two halves join.* A box that is cut by the near border of one tile, and one
   of its class that is cut by the near border of the next, face each other
   over the seam of the two. If their extents along it overlap by half of the
   shorter one or more, they are one object: its box and mask are the union,
   its score is the higher. Each joins one other at most at each side; the
   pairs with the largest product of the lower score and the IoU of the extents
   come first. An object over four tiles is joined at all of their seams.
3. *A piece gives way to the whole.* A box that is still cut, and of which 70 %
   or more lie in a larger box of its class that goes on beyond the cut, is
   a piece of that one, which takes the higher score of both.
4. *Copies go.* What is found in several views is kept once: suppression within
   each class by the detector's own IoU.

Boxes are joined or taken in only where neither score is below a quarter of the
other, so that what is hardly likely does not change what is found. Results do
not depend on the order of views or boxes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torchvision.ops import batched_nms

from dito.models.roi_heads.box_masks import MaskPart

# A border cuts a box that ends so near to it, as a share of the tile's side.
_NEAR = 0.02
# Least ratio of the scores of what is joined.
_ALIKE = 0.25
# Least overlap of two halves along their seam, as a share of the shorter one.
_ALONG = 0.5
_MOST_TILES = 10_000
# Least share of a piece that lies in the whole.
_COVERED = 0.7

Window = tuple[int, int, int, int]


class View(NamedTuple):
    """A part of a picture that the detector sees as one.

    Attributes:
        window (tuple[int]): x1, y1, x2, y2 in pixels as they were read.
        column (int): Place among the tiles from left to right; -1 of the
            whole picture.
        row (int): From top to bottom.
    """

    window: Window
    column: int = -1
    row: int = -1


class Tiling(NamedTuple):
    """How pictures are cut.

    Attributes:
        height (int): Of a tile, in pixels of the picture.
        width (int): Likewise.
        overlap (float): Least share of a side that neighbours have in common.
    """

    height: int
    width: int
    overlap: float

    @classmethod
    def of(cls, tile: Any, overlap: Any, least: int) -> 'Tiling | None':
        """Read the options of a call.

        Args:
            tile (int | tuple[int, int] | None): Side, or height and width;
                None: pictures are not cut.
            overlap (float): Within [0, 1).
            least (int): Pixels that a side has at least.

        Raises:
            ValueError: If one is out of its range.
        """
        if tile is None:
            return None
        sides = tuple(tile) if isinstance(tile, (tuple, list)) else (tile,) * 2
        if len(sides) != 2 or not all(
            isinstance(side, (int, np.integer))
            and not isinstance(side, bool)
            and side >= least
            for side in sides
        ):
            raise ValueError(
                'tile is the side of a tile in pixels, or (height, width), '
                f'each {least} or more (a patch of this detector), got '
                f'{tile!r}.'
            )
        if (
            isinstance(overlap, bool)
            or not isinstance(overlap, (int, float, np.floating))
            or not 0 <= overlap < 1
        ):
            raise ValueError(
                'tile_overlap is the share of a tile that its neighbour has '
                f'too, from 0 to below 1, got {overlap!r}.'
            )
        return cls(int(sides[0]), int(sides[1]), float(overlap))

    def cut(self, full: tuple[int, int], read: tuple[int, int]) -> 'Tiles':
        """Cut a picture.

        Tiles are all of one size and spread evenly from border to border, so
        they overlap by the share that was asked for or more.

        Args:
            full (tuple[int, int]): Height and width of the picture.
            read (tuple[int, int]): Those at which it was read.

        Returns:
            Tiles: Its tiles, and then the whole; the whole alone where it is
            no larger than a tile.

        Raises:
            ValueError: If there were more than 10,000 tiles.
        """
        scale = full[1] / read[1], full[0] / read[0]
        rows = _spans(read[0], self.height / scale[1], self.overlap)
        columns = _spans(read[1], self.width / scale[0], self.overlap)
        if len(rows) * len(columns) > _MOST_TILES:
            raise ValueError(
                f'A picture of {full[1]} x {full[0]} pixels would be cut into '
                f'{len(columns)} x {len(rows)} tiles of {self.width} x '
                f'{self.height} pixels; take larger ones or less overlap.'
            )
        views = [
            View((x1, y1, x2, y2), column, row)
            for row, (y1, y2) in enumerate(rows)
            for column, (x1, x2) in enumerate(columns)
        ]
        whole = View((0, 0, read[1], read[0]))
        return Tiles(
            (*views, whole) if len(views) > 1 else (whole,), full, scale
        )


def _spans(side: int, tile: float, overlap: float) -> list[tuple[int, int]]:
    """Begin and end of tiles along a side of a picture."""
    tile = max(round(tile), 1)
    if tile >= side:
        return [(0, side)]
    step = max(tile * (1 - overlap), 1)
    count = int(np.ceil((side - tile) / step)) + 1
    starts = np.linspace(0, side - tile, count).round().astype(int)
    return [(start, start + tile) for start in starts.tolist()]


class Tiles(NamedTuple):
    """The views of one picture.

    Attributes:
        views (tuple[View]): Its tiles, then the whole picture.
        shape (tuple[int, int]): Height and width of the picture.
        scale (tuple[float, float]): Pixels of the picture per pixel that was
            read, along x and y; 1 but for very large pictures.
    """

    views: tuple[View, ...]
    shape: tuple[int, int]
    scale: tuple[float, float]

    def join(
        self, samples: Sequence[DetDataSample], iou: float
    ) -> DetDataSample:
        """Put together what was found in the views.

        Args:
            samples (Sequence[DetDataSample]): Of each view, in its own pixels.
            iou (float): Of the suppression within each class.

        Returns:
            DetDataSample: In pixels of the picture, best first; masks
            within their boxes, ``box_masks``.
        """
        first = samples[0]
        joined = DetDataSample(
            metainfo=dict(
                img_id=first.get('img_id', 0),
                img_path=first.get('img_path', ''),
                ori_shape=self.shape,
            )
        )
        parts = [
            (view, sample.pred_instances.cpu())
            for view, sample in zip(self.views, samples, strict=True)
        ]
        found = join_views(parts, iou)
        found.bboxes = found.bboxes * found.bboxes.new_tensor(self.scale * 2)
        joined.pred_instances = found
        return joined


def join_views(
    parts: Sequence[tuple[View, InstanceData]], iou: float
) -> InstanceData:
    """Join what was found in the views of a picture, see above.

    Args:
        parts (Sequence[tuple]): Views, in any order, with ``bboxes`` (N, 4) in
            pixels of the view, ``scores`` (N, ), ``labels`` (N, ) and, with
            masks, ``box_masks`` (N, h, w).
        iou (float): Of the suppression within each class.

    Returns:
        InstanceData: The same in pixels of the picture, best first.
        ``box_masks`` is a list where something was joined, whose mask is a
        tuple of :class:`MaskPart`.
    """
    some = [part for part in parts if len(part[1])]
    if not some:
        return parts[0][1]
    pool = _Pool(some, [view for view, _ in parts])
    pool.join_halves()
    pool.absorb_pieces()
    return pool.result(iou)


class _Pool:
    """Detections of all views, in an order that is theirs alone.

    ``view`` is the place of each one's view, ``cut`` says which of its sides
    (left, top, right, bottom) a border cuts, ``masks`` has masks and boxes of
    what each was joined of, and ``stays`` becomes False of what was taken in.
    """

    def __init__(
        self,
        parts: Sequence[tuple[View, InstanceData]],
        views: Sequence[View],
    ) -> None:
        self.views = views
        windows = np.array([view.window for view, _ in parts], np.float32)
        counts = [len(found) for _, found in parts]
        window = np.repeat(windows, counts, axis=0)
        boxes = np.concatenate([f.bboxes.numpy() for _, f in parts])
        boxes = boxes + window[:, [0, 1, 0, 1]]
        scores = np.concatenate([f.scores.numpy() for _, f in parts])
        labels = np.concatenate([f.labels.numpy() for _, f in parts])
        view = np.repeat([views.index(v) for v, _ in parts], counts)
        rows = np.lexsort((*boxes.T, -scores, labels))
        cut = self._cut(boxes, window)
        rows = rows[~self._seen_better(boxes, view, cut)[rows]]
        self.boxes, self.scores, self.labels, self.view, self.cut = (
            array[rows] for array in (boxes, scores, labels, view, cut)
        )
        self.stays = np.ones(len(rows), bool)
        self.meta = parts[0][1].metainfo
        self.masks = None
        if 'box_masks' in parts[0][1]:
            masks = torch.cat([found.box_masks for _, found in parts])[rows]
            self.masks = [
                [pair] for pair in zip(masks, self.boxes.copy(), strict=True)
            ]

    def _seen_better(
        self, boxes: np.ndarray, view: np.ndarray, cut: np.ndarray
    ) -> np.ndarray:
        """Which boxes lie in a tile that sees them larger, or further."""
        found = np.zeros(len(boxes), bool)
        whole = np.array([v.column < 0 for v in self.views])[view]
        for tile in self.views:
            if tile.column < 0:
                continue
            window = np.array(tile.window, np.float32)
            inside = (boxes[:, :2] >= window[:2]).all(axis=1) & (
                boxes[:, 2:] <= window[2:]
            ).all(axis=1)
            there = self._cut(boxes, window[None])
            fewer = (there <= cut).all(axis=1) & (there < cut).any(axis=1)
            found |= inside & (whole | fewer)
        return found

    def _cut(self, boxes: np.ndarray, window: np.ndarray) -> np.ndarray:
        """Which sides of boxes end at a border that is not the picture's."""
        ends = np.array([v.window for v in self.views])
        outer = np.concatenate([ends[:, :2].min(0), ends[:, 2:].max(0)])
        near = _NEAR * (window[:, 2:] - window[:, :2])[:, [0, 1, 0, 1]]
        return (np.abs(boxes - window) <= near) & (window != outer)

    # --------------------------------------------------------------- halves

    def join_halves(self) -> None:
        """Join what faces each other over a seam."""
        places = {(v.column, v.row): i for i, v in enumerate(self.views)}
        free = self.cut.copy()
        pairs = []
        for (column, row), near in places.items():
            for axis, place in (
                (0, (column + 1, row)),
                (1, (column, row + 1)),
            ):
                far = places.get(place)
                if column < 0 or far is None:
                    continue
                for first, second in self._facing(near, far, axis):
                    free[first, 2 + axis] = free[second, axis] = False
                    pairs.append((first, second))
        group = np.arange(len(free))
        for first, second in pairs:
            group[group == group[second]] = group[first]
        for number in {int(group[first]) for first, _ in pairs}:
            self._unite(np.flatnonzero(group == number), free)

    def _facing(
        self, near: int, far: int, axis: int
    ) -> Iterator[tuple[int, int]]:
        """Pairs of rows that join over the seam of two tiles."""
        rows = np.flatnonzero((self.view == near) & self.cut[:, 2 + axis])
        columns = np.flatnonzero((self.view == far) & self.cut[:, axis])
        low, high = (
            [self.boxes[i, 1 - axis + side] for i in (rows, columns)]
            for side in (0, 2)
        )
        shared = np.minimum.outer(*high) - np.maximum.outer(*low)
        shorter = np.minimum.outer(high[0] - low[0], high[1] - low[1])
        both = np.maximum.outer(*high) - np.minimum.outer(*low)
        worse = np.minimum.outer(self.scores[rows], self.scores[columns])
        good = (
            np.equal.outer(self.labels[rows], self.labels[columns])
            & (shared >= _ALONG * shorter)
            & (shared > 0)
            & _alike(self.scores[rows][:, None], self.scores[columns])
        )
        rank = np.where(good, worse * shared / np.maximum(both, 1e-6), 0)
        while rank.size and rank.max() > 0:
            i, j = np.unravel_index(rank.argmax(), rank.shape)
            rank[i] = rank[:, j] = 0
            yield int(rows[i]), int(columns[j])

    def _unite(self, rows: np.ndarray, free: np.ndarray) -> None:
        """Make one of several rows: the first of them."""
        first = rows[0]
        self.boxes[first] = np.concatenate(
            [self.boxes[rows, :2].min(0), self.boxes[rows, 2:].max(0)]
        )
        self.scores[first] = self.scores[rows].max()
        self.cut[first] = free[rows].any(0)
        self.stays[rows[1:]] = False
        if self.masks is not None:
            self.masks[first] = [pair for i in rows for pair in self.masks[i]]

    # --------------------------------------------------------------- pieces

    def absorb_pieces(self) -> None:
        """Let pieces give way to the wholes that they lie in."""
        pieces = np.flatnonzero(self.stays & self.cut.any(axis=1))
        areas = _areas(self.boxes)
        for piece in pieces[np.argsort(areas[pieces], kind='stable')]:
            box, cut = self.boxes[piece], self.cut[piece]
            beyond = np.concatenate(
                [self.boxes[:, :2] < box[:2], self.boxes[:, 2:] > box[2:]], 1
            )
            shared = np.concatenate(
                [
                    np.maximum(self.boxes[:, :2], box[:2]),
                    np.minimum(self.boxes[:, 2:], box[2:]),
                ],
                1,
            )
            wholes = np.flatnonzero(
                self.stays
                & (self.labels == self.labels[piece])
                & (beyond & cut).any(axis=1)
                & (areas > areas[piece])
                & (_areas(shared) >= _COVERED * areas[piece])
                & _alike(self.scores, self.scores[piece])
            )
            if len(wholes):
                best = wholes[self.scores[wholes].argmax()]
                self.scores[best] = max(self.scores[best], self.scores[piece])
                self.stays[piece] = False

    # --------------------------------------------------------------- result

    def result(self, iou: float) -> InstanceData:
        """What stays, without copies."""
        stays = np.flatnonzero(self.stays)
        # In double precision, in which no class comes near another.
        kept = batched_nms(
            torch.from_numpy(self.boxes[stays]).double(),
            torch.from_numpy(self.scores[stays]).double(),
            torch.from_numpy(self.labels[stays]),
            iou,
        )
        rows = stays[kept.numpy()]
        found = InstanceData(
            metainfo=self.meta,
            bboxes=torch.from_numpy(self.boxes[rows]),
            scores=torch.from_numpy(self.scores[rows]),
            labels=torch.from_numpy(self.labels[rows]),
        )
        if self.masks is not None:
            masks = [
                _mask_of(self.boxes[row], self.masks[row]) for row in rows
            ]
            whole = all(isinstance(mask, torch.Tensor) for mask in masks)
            found.box_masks = torch.stack(masks) if whole else masks
        return found


def _alike(one: Any, other: Any) -> Any:
    """Whether scores are of one order."""
    return np.minimum(one, other) >= _ALIKE * np.maximum(one, other)


def _areas(boxes: np.ndarray) -> np.ndarray:
    """Of boxes (N, 4); 0 of one that is none."""
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def _mask_of(
    box: np.ndarray, parts: Sequence[tuple[torch.Tensor, np.ndarray]]
) -> Any:
    """Mask of a box that has one, or the parts that it was joined of."""
    if len(parts) == 1:
        return parts[0][0]
    corner, size = box[[0, 1, 0, 1]], (box[2:] - box[:2])[[0, 1, 0, 1]]
    return tuple(
        MaskPart(mask, tuple(((own - corner) / size).tolist()))
        for mask, own in parts
    )
