# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Arrays of the authors' own modules: where they lie, how they are compared.

The tests take every size, count and setting from the files, so that files of
other sizes and seeds pass through them too: ``DITO_GOLDEN=FOLDER pytest -m
parity`` reads those of another folder.

Processors sum in different orders, so a number is only as exact as the
largest one it was summed from: tolerances are relative to that magnitude.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DATA = Path(__file__).parent / 'data'
GOLDEN = Path(os.environ.get('DITO_GOLDEN', DATA / 'golden'))
Arrays = dict[str, np.ndarray]

XYXY = [1, 0, 3, 2]  # (y1, x1, y2, x2), and (dy, dx, dh, dw)

# float32 keeps 6e-8 of a number; a sum in another order loses some of it.
ROUNDING = 2e-6
# The same through a whole network: measured 2e-6 to 6e-6.
NETWORK = 2e-5


def load_golden(name: str) -> Arrays:
    """Read the arrays of one file, given by its stem."""
    path = GOLDEN / f'{name}.npz'
    if 'DITO_GOLDEN' in os.environ and not path.exists():
        pytest.skip(f'{path} does not exist')
    with np.load(path) as arrays:
        return dict(arrays)


def golden_cases(name: str, pattern: str) -> list[Any]:
    """Find what the keys of a file match, in order and without repeats.

    Args:
        name (str): Stem of the file.
        pattern (str): Regular expression for whole keys.

    Returns:
        list: Its group, or a tuple of its groups, for each matching key.
    """
    path = GOLDEN / f'{name}.npz'
    if not path.exists():
        return []
    with np.load(path) as arrays:
        found = [re.fullmatch(pattern, key) for key in arrays.files]
    groups = (m.groups() for m in found if m)
    return list(dict.fromkeys(g if len(g) > 1 else g[0] for g in groups))


def group(arrays: Arrays, prefix: str) -> Arrays:
    """Take the arrays below a prefix, without it."""
    return {
        name[len(prefix) :]: array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def levels(arrays: Arrays, prefix: str) -> tuple[int, ...]:
    """Pyramid levels for which a file has ``<prefix>LEVEL``, ascending."""
    ends = (name[len(prefix) :] for name in arrays if name.startswith(prefix))
    return tuple(sorted(int(end) for end in ends if end.isdigit()))


def close(
    got: Any,
    expected: Any,
    rel: float = NETWORK,
    size: float = 0,
    err_msg: str = '',
) -> None:
    """Compare arrays relative to their magnitude.

    Args:
        got (Tensor | ndarray | float): What was computed.
        expected (Tensor | ndarray | float): What is right, of that shape.
        rel (float): Largest difference over the magnitude.
        size (float): Magnitude of what both were computed from, such as the
            side of the image for boxes. 0 for the largest expected number.
        err_msg (str): Printed beside the difference.
    """
    got, expected = (
        x.detach().numpy() if hasattr(x, 'detach') else np.asarray(x)
        for x in (got, expected)
    )
    assert got.shape == expected.shape
    size = size or float(np.abs(expected).max(initial=0))
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=rel * size, err_msg=err_msg
    )


def close_ranked(
    got: Sequence[Any],
    expected: Sequence[Any],
    rel_score: float,
    rel_box: float,
    size: float,
) -> None:
    """Compare two rankings of boxes, whose near ties may change places.

    Args:
        got (Sequence): Scores (N, ), best first, boxes (N, 4), and where
            there are classes these (N, ).
        expected (Sequence): The same, of the same lengths.
        rel_score (float): Largest difference of a score over the best score.
        rel_box (float): Largest difference of a coordinate over ``size``.
        size (float): Magnitude of the coordinates.
    """
    got, expected = (
        [np.asarray(x, np.float64) for x in rows] for rows in (got, expected)
    )
    close(got[0], expected[0], rel_score)
    if not len(expected[0]):
        return
    slack = rel_score * np.abs(expected[0]).max()
    free = np.ones(len(got[0]), dtype=bool)
    for i, score in enumerate(expected[0]):
        fits = free & (np.abs(got[0] - score) <= 2 * slack)
        for mine, theirs in zip(got[2:], expected[2:], strict=True):
            fits &= mine == theirs[i]
        far = np.abs(got[1] - expected[1][i]).max(axis=1)
        row = int(np.where(fits, far, np.inf).argmin())
        if fits[row] and far[row] <= rel_box * size:
            free[row] = False
            continue
        # Beyond the last place a near tie may have been cut off.
        assert score - expected[0][-1] <= 2 * slack, (
            f'row {i} of score {score:.6g} and box {expected[1][i]} has no '
            f'counterpart; the nearest is {far[row]:.3g} away'
        )
