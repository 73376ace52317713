# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures on their way to the detector: loaded, cut and prepared."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .films import Film, Frame
from .pictures import PictureReader
from .results import Detections, Query
from .tiles import Tiles, Tiling


class Job(NamedTuple):
    """A picture to detect in, or the error in its place."""

    image: Any
    stem: str = ''
    query: Query | None = None
    film: Film | None = None
    frame: Frame | None = None


def jobs_of(image: Any, stem: str, query: Query) -> Iterator[Job]:
    """A picture, or the frames of a film and the error that ends it."""
    if not isinstance(image, Film):
        yield Job(image, stem, query)
        return
    try:
        for frame in image:
            yield Job(frame.pixels, stem, query, image, frame)
    except (OSError, ValueError) as error:
        yield Job(error, stem, query, image)


def say_where(found: Detections, job: Job) -> None:
    """Note which picture or frame something was found in."""
    if job.film is not None:
        found.source = job.film.name
    elif isinstance(job.image, str):
        found.source = job.image
    if job.frame is not None:
        found.frame, found.time = job.frame.number, job.frame.time


class Part(NamedTuple):
    """A picture, or one view of it, ready for the detector; or an error.

    ``data`` is what the model takes, ``picture`` what is drawn on, and
    ``tiles`` are the views that it is one of, None of a whole picture.
    """

    job: Job
    data: dict[str, Any] | None = None
    picture: np.ndarray | None = None
    error: Exception | None = None
    tiles: Tiles | None = None


def load_parts(
    job: Job,
    reader: PictureReader,
    tiling: Tiling | None = None,
    shown: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[Part]:
    """Read a picture once; give it, or its tiles one after the other.

    Args:
        job (Job): The picture.
        reader (PictureReader): Reads and prepares.
        tiling (Tiling, optional): How it is cut.
        shown (callable, optional): What makes the picture to draw on.

    Yields:
        Part: An error is the last one of its picture.
    """
    try:
        if isinstance(job.image, Exception):
            raise job.image
        item = reader.read(job.image, whole=tiling is not None)
        picture = shown(item['img']) if shown is not None else None
        tiles = None
        if tiling is not None:
            tiles = tiling.cut(item['ori_shape'], item['img_shape'])
        if tiles is None or len(tiles.views) == 1:
            yield Part(job, _prepared(reader, item), picture)
            return
        for view in tiles.views:
            x1, y1, x2, y2 = view.window
            size = y2 - y1, x2 - x1
            # A copy: transforms may work in place.
            tile = dict(item, img=item['img'][y1:y2, x1:x2].copy())
            tile.update(img_shape=size, ori_shape=size)
            yield Part(job, _prepared(reader, tile), picture, tiles=tiles)
    except (ImportError, OSError, ValueError) as error:
        yield Part(job, error=error)


def _prepared(reader: PictureReader, item: dict[str, Any]) -> dict[str, Any]:
    """Data for the model, which leaves masks within their boxes."""
    data = reader.prepare(item)
    data['data_samples'].set_metainfo(dict(mask_form='box'))
    return data
