# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Which layer attends to what: windows, shifts and global layers."""

from collections.abc import Sequence

import torch

from .window_ops import (
    Pair,
    WindowLayout,
    WindowSpec,
    get_layout,
    resolve_global_layers,
)

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
            layouts.append(get_layout(batch, size, specs, class_token, device))
            turn = 1 - turn
        return layouts
