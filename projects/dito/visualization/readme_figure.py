# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""One picture of detections and similarity maps, for the README."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .detections import draw_legend, draw_objects
from .heat_map import draw_heat_map
from .samples import DetectionSample, SimilaritySample
from .tiles import FONT, TILE, arrange, titled

_MAX_BYTES = 1_000_000


def readme_figure(detections: Sequence[DetectionSample],
                  similarity: Sequence[SimilaritySample] = ()) -> np.ndarray:
    """Put judged detections beside the maps of the same pictures.

    Args:
        detections (Sequence[DetectionSample]): One a row.
        similarity (Sequence[SimilaritySample]): A map before and one after
            region-centric pretraining for each picture; may be empty: then
            the detections stand three in a row.

    Returns:
        np.ndarray: RGB, uint8, up to three tiles wide, with a legend below.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not detections:
        raise ValueError('The figure needs pictures with a novel object.')
    tiles: list[np.ndarray] = []
    for number, sample in enumerate(detections):
        scale = max(1, -(-TILE // max(sample.image.shape[:2])))
        drawn = draw_objects(sample.image, sample.judged, scale, FONT)
        tiles.append(titled(drawn, f'detections in {sample.name}'))
        for pair in similarity[number:number + 1]:
            for when, values in (('before', pair.before),
                                 ('after', pair.after)):
                heat = draw_heat_map(pair.image, values, scale, pair.box)
                tiles.append(titled(heat, f'{when} REP: {pair.text}'))
    rows = arrange(tiles, min(3, len(tiles)))
    return np.concatenate([rows, draw_legend(rows.shape[1], FONT)])


def write_figure(image: np.ndarray, path: Path) -> Path:
    """Write a picture: a JPEG, or a PNG of fewer colours if need be.

    Args:
        image (np.ndarray): RGB, uint8, (H, W, 3).
        path (Path): File to write, whole or not at all; by its suffix a
            .jpg, else a .png of less than 1 MB.

    Returns:
        Path: ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{os.getpid()}.{path.name}')
    picture = Image.fromarray(image)
    try:
        if path.suffix.lower() in ('.jpg', '.jpeg'):
            picture.save(temporary, 'JPEG', quality=90)
            os.replace(temporary, path)
            return path
        for colors in (0, 256, 128, 64):
            # Rare colours count too: those of labels and the legend.
            reduced = picture.quantize(
                colors, Image.Quantize.MAXCOVERAGE) if colors else picture
            reduced.save(temporary, 'PNG', optimize=True)
            if temporary.stat().st_size < _MAX_BYTES:
                break
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
