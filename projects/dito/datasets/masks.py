# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Masks of annotation files: polygons, and run lengths in both forms.

The rules are in :mod:`.annotations`.
"""

from typing import Any

import numpy as np
import pycocotools.mask as mask_utils

from .annotation_content import show

Mask = list[list] | dict

# pycocotools takes about 50 bytes for each pixel of an outline.
_MAX_OUTLINE = 2e7


def read_mask(mask: Any, height: int, width: int) -> tuple[Mask | None, str]:
    """Read the ``segmentation`` of an object; also what is wrong with it.

    Polygons (lists x, y, x, y, ...), RLE (a dict of ``size`` and ``counts``),
    or None for an empty one; '' if nothing is wrong.
    """
    if isinstance(mask, dict):
        return _read_rle(mask, height, width)
    if not isinstance(mask, list):
        # NaN stands for nothing, as pandas writes it.
        wrong = mask == mask
        return None, 'the segmentation is no list and no RLE' * wrong
    # One polygon that is not inside a list.
    parts = mask if isinstance(mask[0], list) else [mask]
    parts = [part for part in parts if part != []]
    if not parts:
        return None, ''
    margin = max(height, width)
    polygons = []
    for part in parts:
        polygon, fault = _read_polygon(part, margin)
        if fault:
            return None, fault
        if polygon is not None:
            polygons.append(polygon)
    if not polygons:
        return None, 'no polygon has three points'
    return polygons, ''


def _read_polygon(part: Any, margin: int) -> tuple[list | None, str]:
    """One polygon, None if it is none; and what is wrong."""
    if not isinstance(part, list):
        return None, 'the segmentation is not a list of polygons'
    try:
        # At the speed of C, for millions of polygons; NaN is in the sum.
        total, low, high = sum(part), min(part), max(part)
    except (TypeError, OverflowError):
        part = [_to_float(value) for value in part]
        if None in part:
            return None, 'the segmentation is not a list of polygons'
        total, low, high = sum(part), min(part), max(part)
    if total != total or not -margin <= low <= high <= 2 * margin:
        far = high if high > 2 * margin or low >= -margin else low
        return None, (
            f'a polygon has a vertex at {show(far)}, not near '
            f'the image (from {-margin} to {2 * margin})'
        )
    if len(part) < 6 or len(part) % 2:
        return None, ''
    if len(part) * margin > _MAX_OUTLINE:
        points = np.asarray(part, float).reshape(-1, 2)
        length = np.abs(points - np.roll(points, 1, axis=0)).sum()
        if length > _MAX_OUTLINE:
            return None, f'a polygon has an outline of {length:.4g} pixels'
    return part, ''


def _to_float(value: Any) -> float | None:
    """A number, or digits in text."""
    if isinstance(value, (str, int, float)):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    return None


def _read_rle(mask: dict, height: int, width: int) -> tuple[dict | None, str]:
    """RLE of the size of the image."""
    size, counts = mask.get('size'), mask.get('counts')
    if size is None or counts is None:
        return None, 'RLE needs counts and size'
    size = [_to_float(v) for v in size] if isinstance(size, list) else size
    if size != [height, width]:
        return None, (
            f'RLE of {show(mask["size"])} in an image of {height} x {width}'
        )
    try:
        runs = run_lengths(counts)
    except (ValueError, TypeError, OverflowError):
        return None, 'the counts of an RLE cannot be read'
    if len(runs) and runs.min() < 0 or runs.sum() != height * width:
        return None, (
            f'the runs of an RLE do not add up to {height} x {width} pixels'
        )
    if isinstance(counts, list):
        counts = runs.tolist()
    return dict(size=[height, width], counts=counts), ''


def run_lengths(counts: str | list) -> np.ndarray:
    """Run lengths of an RLE, off and on in turn, (N,), int64.

    pycocotools trusts its input and writes beyond an image where the runs are
    too long, so they are added up before. ValueError if a text is no such
    code.
    """
    if not isinstance(counts, str):
        runs = np.array([_to_float(value) for value in counts], float)
        if not (runs == np.floor(runs)).all() or (abs(runs) > 2**40).any():
            raise ValueError('run lengths must be whole numbers')
        return runs.astype(np.int64)
    code = np.frombuffer(counts.encode('ascii'), np.uint8).astype(np.int64)
    code -= 48
    ends = np.flatnonzero((code & 32) == 0)
    if (
        not len(code)
        or ends[-1:] != len(code) - 1
        or code.min() < 0
        or (code.max() > 63)
    ):
        raise ValueError('no run lengths')
    starts = np.concatenate([[0], ends[:-1] + 1])
    letters = ends - starts + 1
    if letters.max() > 8:
        raise ValueError('run lengths of over 40 bits')
    place = np.arange(len(code)) - np.repeat(starts, letters)
    runs = np.add.reduceat((code & 31) << (5 * place), starts)
    runs -= ((code[ends] & 16) > 0) * (np.int64(1) << (5 * letters))
    # From the fourth on, the difference to the run before the last.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def to_rle(mask: Mask, height: int, width: int) -> dict:
    """Rasterise a mask of :func:`read_mask` to compressed RLE."""
    if isinstance(mask, list):
        return mask_utils.merge(mask_utils.frPyObjects(mask, height, width))
    if isinstance(mask['counts'], list):
        return mask_utils.frPyObjects(mask, height, width)
    return mask
