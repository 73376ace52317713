# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Padded windows with masks equal the sets of tokens they stand for."""

import pytest
import torch

from dito.models.backbones.padded_windows import PaddedLayout
from dito.models.backbones.vit_layers import Block
from dito.models.backbones.window_ops import WindowLayout, WindowSpec


@pytest.mark.parametrize('class_token', [False, True])
@pytest.mark.parametrize('mask', [False, True])
@pytest.mark.parametrize('shift', [(0, 0), (2, 2), (-2, 2), (1, 0)])
def test_a_layer_gives_the_same(
    shift: tuple[int, int], mask: bool, class_token: bool
) -> None:
    torch.manual_seed(0)
    block = Block(8, 2, 2, 'gelu', 1e-6).eval()
    for size in ((8, 8), (4, 4), (3, 9), (5, 4), (12, 8)):
        for window in ((4, 4), (3, 4), (5, 5)):
            passes = (WindowSpec(window), WindowSpec(window, shift, mask))
            tokens = torch.randn(4 * (class_token + size[0] * size[1]), 8)
            sets = WindowLayout(2, size, passes, class_token)
            padded = PaddedLayout(2, size, passes, class_token)
            with torch.no_grad():
                wanted = sets.unpack(block(sets.pack(tokens), sets.groups))
                got = padded.unpack(
                    block(padded.pack(tokens), padded.groups, padded.mask)
                )
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_full_windows_without_shift_need_no_mask() -> None:
    passes = (WindowSpec((4, 4)),)
    assert PaddedLayout(1, (8, 4), passes).mask is None
    assert PaddedLayout(1, (8, 5), passes).mask is not None
