# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Describe image-text shards, from their headers and captions."""

import hashlib
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dito.datasets.image_text.bad_samples import BadSample, blame_sample
from dito.datasets.image_text.captions import CaptionPicker
from dito.datasets.image_text.image_header import image_size
from dito.datasets.image_text.open_shard import find_shards
from dito.datasets.image_text.tar_reader import (
    ALL_WANTED,
    IMAGE_EXTENSIONS,
    read_shard,
)

from .write import map_in_processes

# Shorter side in pixels, up to which a bin of the histogram reaches.
SIDES = (64, 128, 224, 256, 384, 512, 768, 1024)
_QUANTILES = (0, 5, 50, 95, 100)


@dataclass
class _Figures:
    """What is collected of one shard."""

    samples: int = 0
    problems: Counter = field(default_factory=Counter)
    formats: Counter = field(default_factory=Counter)
    keys: list[str] = field(default_factory=list)
    captions: list[bytes] = field(default_factory=list)
    chars: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    image_bytes: list[int] = field(default_factory=list)


def shard_statistics(
    sources: Sequence[str],
    *,
    captions: Sequence[str] = ('txt',),
    workers: int = 1,
) -> dict[str, Any]:
    """Describe shards; images are not decoded.

    Args:
        sources (list[str]): See :func:`find_shards`.
        captions (list[str]): Where captions stand, as in
            :class:`CaptionPicker`.
        workers (int): Number of processes.

    Returns:
        dict: ``shards``, ``samples``, ``problems`` and ``formats`` (number
        by kind), ``caption_chars``, ``caption_words``, ``width``,
        ``height``, ``aspect`` (width over height), ``image_bytes`` (each
        ``mean`` and quantiles), ``shorter_side`` (histogram),
        ``duplicate_keys`` and ``duplicate_captions`` (samples whose key, or
        caption, came before), ``total_image_bytes``.

    Raises:
        FileNotFoundError: If there is no shard.
    """
    tasks = [(shard, tuple(captions)) for shard in find_shards(sources)]
    parts = list(map_in_processes(_figures_of, tasks, workers))

    def joined(name: str) -> list:
        return [value for part in parts for value in getattr(part, name)]

    widths, heights = joined('widths'), joined('heights')
    keys, texts = joined('keys'), joined('captions')
    sizes = np.array([widths, heights], np.float64)
    return dict(
        shards=len(tasks),
        samples=sum(part.samples for part in parts),
        problems=dict(sum((p.problems for p in parts), Counter())),
        formats=dict(sum((p.formats for p in parts), Counter())),
        caption_chars=_summary(joined('chars')),
        caption_words=_summary(joined('words')),
        width=_summary(widths),
        height=_summary(heights),
        aspect=_summary(sizes[0] / sizes[1]),
        shorter_side=_histogram(sizes.min(0)),
        image_bytes=_summary(joined('image_bytes')),
        total_image_bytes=sum(joined('image_bytes')),
        duplicate_keys=len(keys) - len(set(keys)),
        duplicate_captions=len(texts) - len(set(texts)),
    )


def _figures_of(task: tuple) -> _Figures:
    """Collect the figures of one shard."""
    shard, captions = task
    pick = CaptionPicker(captions)
    figures = _Figures()
    try:
        for raw in read_shard(shard, wanted=ALL_WANTED | pick.wanted):
            figures.samples += 1
            figures.keys.append(raw.key)
            try:
                with blame_sample('sample cannot be used'):
                    data = raw.image()
                    text = pick(raw, (0,))
                    size = image_size(data)
                    if size is None:
                        raise BadSample('image cannot be decoded')
            except BadSample as error:
                figures.problems[error.reason] += 1
                continue
            figures.formats[
                next(e for e in IMAGE_EXTENSIONS if e in raw.parts)
            ] += 1
            figures.chars.append(len(text))
            figures.words.append(len(text.split()))
            # Eight bytes tell texts apart, and millions fit in memory.
            figures.captions.append(
                hashlib.blake2b(text.encode(), digest_size=8).digest()
            )
            figures.heights.append(size[0])
            figures.widths.append(size[1])
            figures.image_bytes.append(len(data))
        if not figures.samples:
            figures.problems['empty shard'] += 1
    except (OSError, tarfile.TarError):
        figures.problems['shard breaks off'] += 1
    return figures


def _summary(values: Sequence[float]) -> dict[str, float]:
    """Return mean and quantiles; {} for no values."""
    if not len(values):
        return {}
    quantiles = np.percentile(values, _QUANTILES)
    names = ('min', 'p5', 'median', 'p95', 'max')
    return dict(
        mean=float(np.mean(values)),
        **dict(zip(names, quantiles.tolist(), strict=True)),
    )


def _histogram(sides: np.ndarray) -> dict[str, int]:
    """Count sides by bin; each bin holds its upper bound."""
    counts = np.bincount(
        np.searchsorted(SIDES, sides), minlength=len(SIDES) + 1
    ).tolist()
    names = [f'<= {side}' for side in SIDES] + [f'> {SIDES[-1]}']
    return dict(zip(names, counts, strict=True))
