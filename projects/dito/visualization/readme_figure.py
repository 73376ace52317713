# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""One picture of detections and similarity maps, for the README."""

import os
from pathlib import Path
from typing import List, Sequence

import numpy as np
from PIL import Image

from .detections import draw_objects
from .heat_map import draw_heat_map
from .samples import DetectionSample, SimilaritySample
from .tiles import TILE, arrange, titled

_MAX_BYTES = 500_000


def readme_figure(detections: Sequence[DetectionSample],
                  similarity: Sequence[SimilaritySample]) -> np.ndarray:
    """Put detections above pairs of similarity maps.

    Args:
        detections (Sequence[DetectionSample]): One a tile.
        similarity (Sequence[SimilaritySample]): Two tiles each: before and
            after region-centric pretraining.

    Returns:
        np.ndarray: RGB, uint8, four tiles wide.

    Raises:
        ValueError: If there is nothing to draw.
    """
    tiles: List[np.ndarray] = []
    for sample in detections:
        scale = max(1, -(-TILE // max(sample.image.shape[:2])))
        found = draw_objects(sample.image, sample.found, scale,
                             font_size=18)
        tiles.append(titled(found, f'detections in {sample.name}'))
    for pair in similarity:
        for when, values in (('before', pair.before), ('after', pair.after)):
            heat = draw_heat_map(pair.image, values, 2, pair.box)
            tiles.append(titled(heat, f'{when} REP: {pair.text}'))
    if not tiles:
        raise ValueError('The figure needs detections or similarity maps.')
    return arrange(tiles, min(4, len(tiles)))


def write_png(image: np.ndarray, path: Path) -> Path:
    """Write a PNG of less than 500 kB, of fewer colours if need be.

    Args:
        image (np.ndarray): RGB, uint8, (H, W, 3).
        path (Path): File to write, whole or not at all.

    Returns:
        Path: ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{os.getpid()}.{path.name}')
    picture = Image.fromarray(image)
    try:
        for colors in (0, 256, 128, 64):
            reduced = picture.quantize(colors) if colors else picture
            reduced.save(temporary, 'PNG', optimize=True)
            if temporary.stat().st_size < _MAX_BYTES:
                break
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
