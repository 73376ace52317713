# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch

from dito.models.backbones.window_ops import (
    WindowLayout,
    WindowSpec,
    axis_segments,
    cached_layout,
    get_layout,
    resolve_global_layers,
    window_sets,
)

SPECS = [
    WindowSpec((4, 4)),
    WindowSpec((4, 4), (2, 2)),
    WindowSpec((4, 4), (2, 2), mask=False),
    WindowSpec((3, 5), (-1, 2)),
    WindowSpec((3, 5), (-1, 2), mask=False),
]


def labels(size, spec):
    """Label every token with its window by rolling and cutting, in loops."""
    height, width = size
    result = {}
    for y in range(height):
        for x in range(width):
            key = []
            for place, length, window, shift in zip(
                (y, x), size, spec.window, spec.shift, strict=True
            ):
                if spec.mask and length <= window:
                    shift = 0
                rolled = place + shift
                wrapped = not 0 <= rolled < length
                key += [rolled % length // window, wrapped and spec.mask]
            result.setdefault(tuple(key), set()).add(y * width + x)
    return sorted(map(sorted, result.values()))


@pytest.mark.parametrize('spec', SPECS)
@pytest.mark.parametrize('size', [(8, 8), (5, 7), (9, 4), (3, 12), (1, 1)])
def test_window_sets_equal_rolled_windows(size, spec):
    sets = window_sets(size, spec)
    assert sorted(sorted(tokens.tolist()) for tokens in sets) == labels(
        size, spec
    )


def test_axis_segments_of_algorithm_1():
    # Rolled by +2: 6 7 0 1 | 2 3 4 5; the wrapped 6 7 stay among themselves.
    cut = [part.tolist() for part in axis_segments(8, 4, 2)]
    assert cut == [[6, 7], [0, 1], [2, 3, 4, 5]]
    free = [part.tolist() for part in axis_segments(8, 4, 2, mask=False)]
    assert free == [[6, 7, 0, 1], [2, 3, 4, 5]]
    # The release's sign along the height.
    free = [part.tolist() for part in axis_segments(8, 4, -2, mask=False)]
    assert free == [[2, 3, 4, 5], [6, 7, 0, 1]]


def test_shift_of_a_whole_axis_is_no_shift():
    plain = axis_segments(8, 4)
    for a, b in zip(plain, axis_segments(8, 4, 8), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('class_token', [False, True])
@pytest.mark.parametrize('passes', [SPECS[:1], SPECS[:2], SPECS[3:]])
@pytest.mark.parametrize('size', [(8, 8), (5, 7)])
def test_pack_then_unpack_is_the_identity(size, passes, class_token):
    layout = WindowLayout(3, size, passes, class_token)
    length = size[0] * size[1] + class_token
    tokens = torch.randn(3 * len(passes) * length, 6)
    rows = layout.pack(tokens)
    assert len(rows) == sum(n * length for n, length in layout.groups)
    torch.testing.assert_close(layout.unpack(rows), tokens)


def test_groups_hold_one_sequence_each_and_its_class_token():
    layout = WindowLayout(2, (5, 7), SPECS[:2], class_token=True)
    length = 5 * 7 + 1
    index = layout.index.tolist()
    position = 0
    for number, size in layout.groups:
        for _ in range(number):
            tokens = index[position : position + size]
            position += size
            assert len({token // length for token in tokens}) == 1
            assert tokens[0] % length == 0
            assert all(token % length for token in tokens[1:])
    assert position == len(index)


def test_copies_of_the_class_token_are_averaged():
    layout = WindowLayout(1, (4, 8), SPECS[:1], class_token=True)
    rows = layout.pack(torch.zeros(33, 1))
    rows[layout.copies] = torch.tensor([[1.0], [4.0]])
    assert layout.unpack(rows)[0].item() == 2.5


def test_only_equal_windows_are_sequential():
    assert WindowLayout(2, (8, 8), SPECS[:1]).sequential
    assert WindowLayout(2, (8, 8), [SPECS[0], SPECS[2]]).sequential
    assert not WindowLayout(2, (8, 8), SPECS[:2]).sequential
    assert not WindowLayout(2, (8, 8), SPECS[:1], True).sequential


def test_a_sequential_layout_keeps_sequences_together():
    layout = WindowLayout(2, (8, 8), [SPECS[0], SPECS[2]])
    owner = layout.index.view(4, 64) // 64
    assert (owner == torch.arange(4)[:, None]).all()


def test_a_layout_made_in_inference_mode_can_be_trained_with():
    cached_layout.cache_clear()
    key = (1, (4, 4), (WindowSpec((2, 2)),), False, torch.device('cpu'))
    with torch.inference_mode():
        get_layout(*key)
    tokens = torch.randn(16, 2, requires_grad=True)
    get_layout(*key).pack(tokens).sum().backward()
    assert (tokens.grad == 1).all()
    assert get_layout(*key) is get_layout(*key)


@pytest.mark.parametrize(
    'spec, num_layers, layers',
    [
        (4, 12, {2, 5, 8, 11}),
        (4, 24, {5, 11, 17, 23}),
        (4, 32, {7, 15, 23, 31}),
        (8, 24, {2, 5, 8, 11, 14, 17, 20, 23}),
        (2, 5, {1, 4}),
        (0, 12, set()),
        ('all', 3, {0, 1, 2}),
        ([0, -1], 12, {0, 11}),
        ([], 12, set()),
    ],
)
def test_global_layers(spec, num_layers, layers):
    assert resolve_global_layers(num_layers, spec) == layers


@pytest.mark.parametrize('spec', [5, -1, [4], [-5], 'some'])
def test_global_layers_that_do_not_exist(spec):
    with pytest.raises(ValueError, match='global_layers'):
        resolve_global_layers(4, spec)
