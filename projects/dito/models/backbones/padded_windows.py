# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Attention windows of one size, with padding and a mask.

:class:`WindowLayout` sorts tokens into sets of many lengths, which it must
know as numbers. An exported graph serves images of any size: here all windows
have one size, missing tokens are padded, and a mask keeps sets apart. Every
index is computed from the size by tensors, within the graph.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from .window_ops import Groups, Pair, WindowSpec

_PAD = 2  # the set of what is no token; 0 and 1 are before and after a cut


class _Axis(NamedTuple):
    """Windows along one axis of L tokens, n windows of w places.

    Attributes:
        count (int): n.
        source (Tensor): Token at each place, int64 (n, w).
        part (Tensor): Set of each place: 0, 1 or ``_PAD``, int64 (n, w).
        window (Tensor): Window of each token, int64 (L, ).
        offset (Tensor): Place of each token in its window, int64 (L, ).
        plain (bool): Whether all places are of set 0 for certain.
    """

    count: Any
    source: Tensor
    part: Tensor
    window: Tensor
    offset: Tensor
    plain: bool


def _axis(
    length: Any, window: Any, shift: int, mask: bool, device: torch.device
) -> _Axis:
    """Lay out an axis as :func:`axis_segments` cuts it."""
    count = -(-length // window)
    full = statically_known_true(count * window == length)
    places = torch.arange(count * window, device=device)
    # Tensors of one number: graphs have no modulus of an open size.
    sides, cells = (
        torch.scalar_tensor(side, dtype=torch.long, device=device)
        for side in (length, window)
    )
    part = torch.zeros_like(places)
    cut = mask and bool(shift)
    if cut:
        # An axis no longer than a window is left whole.
        wrapped = places < torch.full_like(sides, shift).remainder(sides)
        part = (wrapped & (sides > cells)).long()
    if not full:
        part = torch.where(places < sides, part, _PAD)
    rolled = torch.arange(length, device=device).add(shift).remainder(sides)
    return _Axis(
        count,
        (places - shift).remainder(sides).view(count, window),
        part.view(count, window),
        rolled.div(cells, rounding_mode='floor'),
        rolled.remainder(cells),
        full and not cut,
    )


class PaddedLayout:
    """An order of tokens in which every window is one stretch of rows.

    Interface and results are those of :class:`WindowLayout`. With a class
    token each window has a copy for each set it may be cut into; copies of
    sets without tokens do not count.

    Attributes:
        groups (tuple[tuple[int, int]]): The one (number of windows, length).
        mask (Tensor, optional): bool, shape (windows, 1, length, length).
        sequential (bool): False: global layers need the rows unpacked.

    Args:
        batch (int): Images B in a pass.
        size (tuple[int, int]): Height h and width w of the token map.
        passes (Sequence[WindowSpec]): Windows of each of the P passes, of
            one size.
        class_token (bool): Whether token 0 of a sequence is a class token.
        device (torch.device): Device of the index tensors.
    """

    sequential = False

    def __init__(
        self,
        batch: Any,
        size: Pair,
        passes: Sequence[WindowSpec],
        class_token: bool = False,
        device: torch.device | None = None,
    ) -> None:
        axes = [
            [
                _axis(
                    size[i], spec.window[i], spec.shift[i], spec.mask, device
                )
                for i in (0, 1)
            ]
            for spec in passes
        ]
        self.batch, self.passes = batch, len(passes)
        self.extra = int(class_token)
        cut = any(spec.mask and any(spec.shift) for spec in passes)
        # Sets by the parts of both axes: 3 * row + column.
        copies = ((0, 1, 3, 4) if cut else (0,)) if class_token else ()
        self.copies = len(copies)
        rows, columns = axes[0]
        self.windows = rows.count * columns.count
        self.cells = passes[0].window[0] * passes[0].window[1]
        self.length = self.copies + self.cells
        self.groups: Groups = (
            (self.passes * batch * self.windows, self.length),
        )
        self.index = torch.stack([self._index(*axis, size) for axis in axes])
        self.inverse = torch.stack([self._inverse(*axis) for axis in axes])
        self.mask: Tensor | None = None
        if class_token or not all(
            axis.plain for pair in axes for axis in pair
        ):
            self._set_mask(
                torch.stack([self._sets(*pair) for pair in axes]), copies
            )

    def _index(self, rows: _Axis, columns: _Axis, size: Pair) -> Tensor:
        """Token at each place of each window, (windows * length, )."""
        index = rows.source[:, None, :, None] * size[1]
        index = index + columns.source[None, :, None, :] + self.extra
        index = index.reshape(self.windows, self.cells)
        if self.copies:
            token = index.new_zeros(1, 1).expand(self.windows, self.copies)
            index = torch.cat([token, index], dim=1)
        return index.reshape(-1)

    def _inverse(self, rows: _Axis, columns: _Axis) -> Tensor:
        """Place of each token, without the class token, (h * w, )."""
        window = rows.window[:, None] * columns.count + columns.window
        width = columns.part.shape[1]
        offset = rows.offset[:, None] * width + columns.offset
        return (window * self.length + self.copies + offset).reshape(-1)

    def _sets(self, rows: _Axis, columns: _Axis) -> Tensor:
        """Set of each place, (windows, cells)."""
        sets = rows.part[:, None, :, None] * 3 + columns.part[None, :, None, :]
        return sets.reshape(self.windows, self.cells)

    def _set_mask(self, sets: Tensor, copies: tuple[int, ...]) -> None:
        """Keep sets (P, windows, cells) apart; tell which copies count."""
        if copies:
            own = sets.new_tensor(copies).expand(self.passes, self.windows, -1)
            # (P, windows, copies): whether the set of a copy has tokens.
            self.weight = (own[..., None] == sets[:, :, None]).any(-1).float()
            sets = torch.cat([own, sets], dim=2)
        mask = sets[..., :, None] == sets[..., None, :]
        self.mask = (
            mask[:, None]
            .expand(-1, self.batch, -1, -1, -1)
            .reshape(self.groups[0][0], 1, self.length, self.length)
        )

    def pack(self, tokens: Tensor) -> Tensor:
        """Sort tokens into windows.

        Args:
            tokens (Tensor): Has shape (P * B * (extra + h * w), C).

        Returns:
            Tensor: Has shape (windows * length, C), over all images.
        """
        tokens = tokens.view(self.passes, self.batch, -1, tokens.shape[-1])
        rows = [
            part.index_select(1, index)
            for part, index in zip(tokens, self.index, strict=True)
        ]
        return torch.stack(rows).flatten(0, 2)

    def unpack(self, rows: Tensor) -> Tensor:
        """Undo :meth:`pack`, averaging the copies of class tokens.

        Args:
            rows (Tensor): Has shape (windows * length, C).

        Returns:
            Tensor: Has shape (P * B * (extra + h * w), C).
        """
        rows = rows.view(
            self.passes, self.batch, self.windows * self.length, -1
        )
        tokens = torch.stack(
            [
                part.index_select(1, index)
                for part, index in zip(rows, self.inverse, strict=True)
            ]
        )
        if self.copies:
            own = rows.unflatten(2, (self.windows, self.length))
            weight = self.weight[:, None, :, :, None].to(rows.dtype)
            total = (own[:, :, :, : self.copies] * weight).sum((2, 3))
            mean = total / weight.sum((2, 3))
            tokens = torch.cat([mean[:, :, None], tokens], dim=2)
        return tokens.flatten(0, 2)
