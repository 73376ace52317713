# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Check shards: structure, checksums, every image and caption."""

import tarfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dito.datasets.image_text.bad_samples import BadSample, blame_sample
from dito.datasets.image_text.captions import CaptionPicker
from dito.datasets.image_text.decode import decode_reduced
from dito.datasets.image_text.image_header import image_size, jpeg_size
from dito.datasets.image_text.open_shard import (
    find_shards,
    is_local,
    open_shard,
)
from dito.datasets.image_text.tar_reader import (
    ALL_WANTED,
    RawSample,
    read_shard,
)
from dito.datasets.image_text.tar_walk import TarWalker
from dito.utils.files import sha256_of

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
    """Check shards.

    Args:
        sources (list[str]): See :func:`find_shards`.
        manifest (str, optional): What ``pairs2shards.py`` wrote. Defaults to
            None: ``manifest.json`` of the folder, if there is one.
        decode (bool): Whether to decode all images, or read headers alone.
        captions (list[str]): Where captions stand, as in
            :class:`CaptionPicker`.
        workers (int): Number of processes.

    Returns:
        list[dict]: For each shard, also for those that the manifest alone
        knows, ``shard``, ``samples``, ``problems`` (number by kind) and
        ``examples`` (list of str).

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
