# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Check shards (structure, checksums, every sample) and describe them."""

import hashlib
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dito.utils.files import sha256_of

from ..image_text.bad_samples import BadSample, blame_sample
from ..image_text.captions import CaptionPicker
from ..image_text.image_header import image_size, jpeg_size
from ..image_text.tar_reader import (
    ALL_WANTED,
    IMAGE_EXTENSIONS,
    RawSample,
    read_shard,
)
from ..image_text.tar_walk import TarWalker, find_shards, is_local, open_shard
from ..image_text.transforms import decode_reduced
from .write import find_manifest, load_manifest, map_in_processes

_MAX_EXAMPLES = 5


def check_shards(
    sources: Sequence[str],
    *,
    manifest: str | None = None,
    decode: bool = True,
    captions: Sequence[str] = ('txt',),
    workers: int = 1,
) -> list[dict[str, Any]]:
    """Check shards; see :func:`find_shards` for the sources.

    ``manifest`` is what ``dito pairs2shards`` wrote, by default
    ``manifest.json`` of the folder, if there is one. Without ``decode``
    headers alone are read. ``captions`` say where captions are, as in
    :class:`CaptionPicker`.

    Returns for each shard, also for those that the manifest alone knows,
    ``shard``, ``samples``, ``problems`` (number by kind) and ``examples``.

    Raises:
        FileNotFoundError: If there is nothing to check.
        ValueError: If the manifest is none.
    """
    shards = find_shards(sources)
    path = manifest or find_manifest(sources)
    known = {} if path is None else load_manifest(path)
    tasks = [
        (shard, known.get(_name(shard)) if known else {}) for shard in shards
    ]
    check = partial(_check_one, decode=decode, captions=tuple(captions))
    reports = list(map_in_processes(check, tasks, workers))
    for name in sorted(set(known) - {_name(shard) for shard in shards}):
        reports.append(
            dict(
                shard=name,
                samples=0,
                problems={'shard missing': 1},
                examples=[f'the manifest {path} lists it'],
            )
        )
    return reports


class _Problems:
    """Number by kind and the first few in words."""

    def __init__(self) -> None:
        self.counts: Counter = Counter()
        self.examples: list[str] = []

    def add(self, kind: str, text: str) -> None:
        """Add one."""
        self.counts[kind] += 1
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(text)


def _check_one(
    task: tuple, decode: bool, captions: Sequence[str]
) -> dict[str, Any]:
    """Check one shard and its record in the manifest (None: not in it)."""
    shard, record = task
    problems = _Problems()
    if record is None:
        problems.add('not in the manifest', 'the manifest does not list it')
    elif record and is_local(shard):
        _check_file(Path(shard), record, problems)
    pick = CaptionPicker(captions)
    samples, seen = 0, set()
    try:
        for raw in read_shard(shard, wanted=ALL_WANTED | pick.wanted):
            samples += 1
            if raw.key in seen:
                problems.add('key twice', f'{raw.key} comes again')
            seen.add(raw.key)
            _check_sample(raw, pick, decode, problems)
        if not samples:
            problems.add('empty shard', 'it holds no sample')
        if is_local(shard):
            _check_end(shard, problems)
    except (OSError, tarfile.TarError) as error:
        problems.add('shard breaks off', f'after {samples} samples: {error}')
    if record and record['samples'] != samples:
        problems.add(
            'other number of samples',
            f'{samples}, the manifest says {record["samples"]}',
        )
    return dict(
        shard=shard,
        samples=samples,
        problems=dict(problems.counts),
        examples=problems.examples,
    )


def _check_file(
    path: Path, record: dict[str, Any], problems: _Problems
) -> None:
    """Compare a file with the manifest."""
    size = path.stat().st_size
    if size != record['bytes']:
        problems.add(
            'other size', f'{size} bytes, the manifest says {record["bytes"]}'
        )
    elif sha256_of(path) != record['sha256']:
        problems.add('other checksum', "its sha256 is not the manifest's")


def _check_sample(
    raw: RawSample, pick: CaptionPicker, decode: bool, problems: _Problems
) -> None:
    """Check one sample, with the loader's own functions."""
    try:
        with blame_sample('sample cannot be used'):
            data = raw.image()
            pick(raw, (0,))
            raw.metadata()
            if decode:
                decode_reduced(data, jpeg_size(data), 1)
            elif image_size(data) is None:
                raise BadSample('image cannot be decoded', 'it has no size')
    except BadSample as error:
        problems.add(error.reason, f'{raw.key}: {error}')


def _check_end(shard: str, problems: _Problems) -> None:
    """Look for the mark at the end, which a tar cut short has lost."""
    with open_shard(shard) as stream:
        walker = TarWalker(stream, seekable=True)
        for _ in walker:
            pass
        if not walker.ended:
            problems.add('no end mark', 'the tar may have been cut off')


def _name(shard: str) -> str:
    """File name of a shard, as in a manifest."""
    return shard.split('?')[0].rpartition('/')[2]


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

    Gives ``shards``, ``samples``, ``problems`` and ``formats`` (number by
    kind), ``caption_chars``, ``caption_words``, ``width``, ``height``,
    ``aspect`` (width over height), ``image_bytes`` (each ``mean`` and
    quantiles), ``shorter_side`` (histogram), ``duplicate_keys`` and
    ``duplicate_captions`` (samples whose key, or caption, came before),
    ``total_image_bytes``. FileNotFoundError if there is no shard.
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
