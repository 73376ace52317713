# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Attention windows as sets of tokens, and which layer has which windows.

Attention sees a *set* of tokens. A window that reaches over the map's edge is
a smaller set, and a shifted window whose wrapped tokens may not meet the
others (Algorithm 1 of the paper) is two, or in the corner four, smaller sets.
Nothing is rolled, padded or masked: tokens are sorted into sets, sets of
the same length lie side by side, and each length is one attention call. The
result equals that of padded windows with masks, for less work.

In shapes B are images, P passes (plain, shifted), (h, w) the sides of a map in
tokens, C channels and L the tokens of a set.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Pair = tuple[int, int]
Groups = tuple[Pair, ...]


class WindowSpec(NamedTuple):
    """One pass's windows over a token map.

    Attributes:
        window (tuple[int, int]): Window height and width in tokens.
        shift (tuple[int, int]): By how many tokens the map is rolled down and
            to the right before it is cut into windows.
        mask (bool): Whether tokens wrapped around the border are kept apart
            from those they would meet there.
    """

    window: Pair
    shift: Pair = (0, 0)
    mask: bool = True


def resolve_global_layers(
    num_layers: int, global_layers: int | str | Sequence[int]
) -> frozenset[int]:
    """Tell which layers attend globally.

    Args:
        num_layers (int): Number of transformer layers.
        global_layers (int | str | Sequence[int]): A number L (the last layer
            of each of L equal parts, so 6, 12, 18, 24 of 24 for L = 4, paper
            Sec. 3.3; 0 for none), 'all', or 0-based layer indices, counted
            from the end where negative.

    Returns:
        frozenset[int]: 0-based indices.

    Raises:
        ValueError: If there are fewer layers than asked for, or an index lies
            outside.
    """
    if global_layers == 'all':
        return frozenset(range(num_layers))
    if isinstance(global_layers, int):
        if not 0 <= global_layers <= num_layers:
            raise ValueError(
                f'global_layers={global_layers} does not fit {num_layers} '
                f"layers: give 0 to {num_layers}, 'all' or a list of indices."
            )
        return frozenset(
            (part + 1) * num_layers // global_layers - 1
            for part in range(global_layers)
        )
    if isinstance(global_layers, str):
        raise ValueError(
            f"global_layers={global_layers!r} is not known: give 'all', a "
            'number or a list of indices.'
        )
    for index in global_layers:
        if not -num_layers <= index < num_layers:
            raise ValueError(
                f'global_layers holds {index}, but there are {num_layers} '
                f'layers: indices go from 0 to {num_layers - 1}.'
            )
    return frozenset(index % num_layers for index in global_layers)


def axis_segments(
    length: int, window: int, shift: int = 0, mask: bool = True
) -> list[np.ndarray]:
    """Cut one axis of the token map into windows.

    An axis no longer than a window is left whole when ``mask`` is on, since
    cutting it at the border would only take away neighbours.

    Args:
        length (int): Number of tokens on the axis.
        window (int): Tokens in a window.
        shift (int): Roll along the axis before it is cut. Defaults to 0.
        mask (bool): Whether to cut a window where the roll wraps around.

    Returns:
        list[ndarray]: Token positions of each segment, in un-rolled
        coordinates. Each position occurs once.
    """
    if mask and length <= window:
        return [np.arange(length)]
    order = (np.arange(length) - shift) % length
    segments = []
    for start in range(0, length, window):
        part = order[start : start + window]
        cuts = np.flatnonzero(np.diff(part) != 1) + 1 if mask else []
        segments.extend(np.split(part, cuts))
    return segments


def window_sets(size: Pair, spec: WindowSpec) -> list[np.ndarray]:
    """List the tokens of every window.

    Args:
        size (tuple[int, int]): Height and width of the token map.
        spec (WindowSpec): Its windows.

    Returns:
        list[ndarray]: For each window the flat indices (row by row) of its
        tokens. Together they hold each token once.
    """
    rows, columns = (
        axis_segments(
            size[axis], spec.window[axis], spec.shift[axis], spec.mask
        )
        for axis in (0, 1)
    )
    return [
        (row[:, None] * size[1] + column).ravel()
        for row in rows
        for column in columns
    ]


class WindowLayout:
    """An order of tokens in which every window is one stretch of rows.

    Sets of equal length lie side by side over all images and passes. The
    layers that treat tokens one by one (norms, projections, MLP) then work on
    one (rows, C) matrix, and consecutive windowed layers need no reordering.

    With a class token, every window carries its own copy; the copies are
    averaged when the windows are taken apart.

    Attributes:
        groups (tuple[tuple[int, int]]): (number of sets, length), per length.
        sequential (bool): Whether each sequence is one stretch of rows, so
            that a global layer can run on the packed rows as they are.

    Args:
        batch (int): Images B in a pass.
        size (tuple[int, int]): Height h and width w of the token map.
        passes (Sequence[WindowSpec]): Windows of each of the P passes.
        class_token (bool): Whether token 0 of a sequence is a class token.
        device (torch.device): Device of the index tensors.
    """

    def __init__(
        self,
        batch: int,
        size: Pair,
        passes: Sequence[WindowSpec],
        class_token: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.num_sequences = batch * len(passes)
        self.extra = int(class_token)
        self.length = size[0] * size[1] + self.extra
        index, groups = self._sort(batch, size, passes)
        self.groups: Groups = groups
        self.sequential = len(groups) == 1 and not class_token

        row_of = np.empty(self.num_sequences * self.length, dtype=np.int64)
        row_of[index] = np.arange(len(index))
        row_of = row_of.reshape(self.num_sequences, self.length)
        self.index = torch.from_numpy(index).to(device)
        self.inverse = torch.from_numpy(row_of[:, self.extra :].ravel()).to(
            device
        )
        if class_token:
            copies = np.flatnonzero(index % self.length == 0)
            owner = index[copies] // self.length
            count = np.bincount(owner)[:, None].astype(np.float32)
            self.copies = torch.from_numpy(copies).to(device)
            self.owner = torch.from_numpy(owner).to(device)
            self.count = torch.from_numpy(count).to(device)

    def _sort(
        self, batch: int, size: Pair, passes: Sequence[WindowSpec]
    ) -> tuple[np.ndarray, Groups]:
        """Sort the tokens of all passes and images by window and length."""
        by_length: dict[int, list[np.ndarray]] = {}
        for number, spec in enumerate(passes):
            same: dict[int, list[np.ndarray]] = {}
            for tokens in window_sets(size, spec):
                tokens = tokens + self.extra
                if self.extra:
                    tokens = np.concatenate([[0], tokens])
                same.setdefault(len(tokens), []).append(tokens)
            first = (number * batch + np.arange(batch)) * self.length
            for length, sets in same.items():
                rows = first[:, None, None] + np.stack(sets)
                by_length.setdefault(length, []).append(
                    rows.reshape(-1, length)
                )
        parts = [
            np.concatenate(by_length[length])
            for length in sorted(by_length, reverse=True)
        ]
        index = np.concatenate([part.ravel() for part in parts])
        return index, tuple(part.shape for part in parts)

    def pack(self, tokens: Tensor) -> Tensor:
        """Sort tokens into windows.

        Args:
            tokens (Tensor): Has shape (P * B * (extra + h * w), C).

        Returns:
            Tensor: Has shape (rows, C), in the order of ``groups``.
        """
        return tokens.index_select(0, self.index)

    def unpack(self, rows: Tensor) -> Tensor:
        """Undo :meth:`pack`, averaging the copies of class tokens.

        Args:
            rows (Tensor): Has shape (rows, C).

        Returns:
            Tensor: Has shape (P * B * (extra + h * w), C).
        """
        tokens = rows.index_select(0, self.inverse)
        if not self.extra:
            return tokens
        channels = rows.shape[1]
        summed = rows.new_zeros(self.num_sequences, channels).index_add(
            0, self.owner, rows.index_select(0, self.copies)
        )
        mean = (summed / self.count).to(rows.dtype)
        tokens = tokens.view(self.num_sequences, -1, channels)
        return torch.cat([mean[:, None], tokens], dim=1).flatten(0, 1)


@torch.compiler.assume_constant_result
def get_layout(
    batch: int,
    size: Pair,
    passes: tuple[WindowSpec, ...],
    class_token: bool,
    device: torch.device,
) -> WindowLayout:
    """Build a :class:`WindowLayout`, or return the one built before.

    Compiled code holds the layout as a constant, so it is compiled once for
    every size of the map.
    """
    return cached_layout(batch, size, passes, class_token, device)


@lru_cache(maxsize=64)
def cached_layout(*args: Any) -> WindowLayout:
    """What :func:`get_layout` keeps; its ``cache_clear`` forgets it."""
    # A layout is used for training later even if inference asked first.
    with torch.inference_mode(False):
        return WindowLayout(*args)


# One entry a layer: the sets of tokens, or None for the whole image.
Layouts = Sequence[WindowLayout | None]


class WindowPlan:
    """Windows of a tower's layers, for token maps of any size.

    The arguments are those of :class:`DITOViT`.

    Args:
        num_layers (int): Number of layers.
        window (dict, optional): ``dict(size=...)`` or ``dict(grid=...)``.
        global_layers (int | str | Sequence[int]): Layers without windows.
        shift (str, optional): None, 'swl' or 'swin'.
        shift_size (int, optional): Roll in tokens. None for half a window.
        shift_mask (bool): Whether wrapped tokens are kept apart.
        release_signs (bool): Whether the roll along the height is negative.

    Raises:
        ValueError: If an argument is not known or two do not fit together.
    """

    def __init__(
        self,
        num_layers: int,
        window: dict | None,
        global_layers: int | str | Sequence[int],
        shift: str | None,
        shift_size: int | None,
        shift_mask: bool,
        release_signs: bool,
    ) -> None:
        if window is not None and (
            len(window) != 1
            or not set(window) <= {'size', 'grid'}
            or min(window.values()) < 1
        ):
            raise ValueError(
                f'window={window} is not known: give dict(size=tokens) or '
                'dict(grid=windows per side), at least 1.'
            )
        if shift not in (None, 'swl', 'swin'):
            raise ValueError(
                f"shift={shift!r} is not known: give None, 'swl' or 'swin'."
            )
        if shift is not None and window is None:
            raise ValueError(
                f'shift={shift!r} needs windows: set window, or shift=None.'
            )
        if shift_size is not None and shift_size < 0:
            raise ValueError(f'shift_size={shift_size} must not be negative.')
        self.num_layers = num_layers
        self.window = window
        self.global_layers = resolve_global_layers(
            num_layers, 'all' if window is None else global_layers
        )
        self.shift = shift
        self.shift_size = shift_size
        self.shift_mask = shift_mask
        self.release_signs = release_signs

    def without_windows(self) -> 'WindowPlan':
        """Return a plan of the same layers, all of them global."""
        return WindowPlan(
            self.num_layers,
            None,
            'all',
            None,
            None,
            self.shift_mask,
            release_signs=False,
        )

    @property
    def first_windowed(self) -> int:
        """First layer that has windows; ``num_layers`` if none has."""
        return next(
            (
                layer
                for layer in range(self.num_layers)
                if layer not in self.global_layers
            ),
            self.num_layers,
        )

    def spec(self, size: Pair, shifted: bool) -> WindowSpec:
        """Windows over a token map, plain or shifted.

        Args:
            size (tuple[int, int]): Height and width of the token map.
            shifted (bool): Whether the map is rolled first.

        Returns:
            WindowSpec: The windows. A grid gives windows of different sizes
            on the two axes where the map is not square.
        """
        if 'grid' in self.window:
            window = tuple(-(-side // self.window['grid']) for side in size)
        else:
            window = (self.window['size'],) * 2
        if not shifted:
            return WindowSpec(window)
        down, right = (
            side // 2 if self.shift_size is None else self.shift_size
            for side in window
        )
        return WindowSpec(
            window,
            (-down if self.release_signs else down, right),
            self.shift_mask,
        )

    def layouts(
        self,
        batch: int,
        size: Pair,
        passes: Sequence[tuple[bool, bool]],
        class_token: bool,
        device: torch.device,
        make: Callable[..., Any] | None = None,
    ) -> Layouts:
        """Lay out the tokens of every layer.

        Args:
            batch (int): Images in each pass.
            size (tuple[int, int]): Height and width of the token map.
            passes (Sequence[tuple[bool, bool]]): For each pass whether its
                first, third, ... and its second, fourth, ... windowed layer
                is shifted.
            class_token (bool): Whether token 0 is a class token.
            device (torch.device): Device of the tokens.
            make (callable, optional): Takes the place of
                :func:`get_layout`, such as :class:`PaddedLayout`.

        Returns:
            list[WindowLayout | None]: One per layer, None where global.
        """
        layouts: list[WindowLayout | None] = []
        turn = 0
        for layer in range(self.num_layers):
            if layer in self.global_layers:
                layouts.append(None)
                continue
            specs = tuple(self.spec(size, shifts[turn]) for shifts in passes)
            layouts.append(
                (make or get_layout)(batch, size, specs, class_token, device)
            )
            turn = 1 - turn
        return layouts
