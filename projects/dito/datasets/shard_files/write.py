# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write image-caption pairs to tar shards; the manifest beside them."""

import hashlib
import io
import json
import math
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from dito.datasets.image_text.bad_samples import BadSample, blame_sample
from dito.datasets.image_text.image_header import (
    image_size,
    jpeg_size,
    open_image,
)
from dito.datasets.image_text.transforms import MAX_PIXELS, decode_reduced
from dito.utils.files import read_json, replacing, sha256_of, write_json

from .pairs import Pair

_EXTENSIONS = dict(JPEG='jpg', PNG='png', WEBP='webp')
_ORIENTATION = 0x0112


class EncodedImage(NamedTuple):
    """An image as it goes into a shard: jpg, png or webp, sizes in pixels."""

    data: bytes
    extension: str
    width: int
    height: int
    original_width: int
    original_height: int


def prepare_image(
    data: bytes, max_side: int | None = None, quality: int = 95
) -> EncodedImage:
    """Check that an image can be decoded, and encode it anew if it must be.

    It must where its shorter side is over ``max_side``, where its EXIF
    orientation is not upright (the loader ignores orientations) and where it
    is of another format than shards hold. Everything else is kept byte for
    byte. BadSample if it cannot be decoded.
    """
    # Decoding is the check; the pixels serve if nothing has to be turned.
    pixels = decode_reduced(data, jpeg_size(data), 1, MAX_PIXELS)[..., ::-1]
    height, width = image_size(data) or pixels.shape[:2]
    kind, orientation = _kind(data)
    shrink = max_side is not None and min(width, height) > max_side
    if kind in _EXTENSIONS and not shrink and orientation in (0, 1):
        return EncodedImage(
            data, _EXTENSIONS[kind], width, height, width, height
        )
    image = _upright(pixels, orientation)
    original = image.size
    if shrink:
        factor = max_side / min(image.size)
        size = [max(1, round(side * factor)) for side in image.size]
        image = image.resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=quality)
    return EncodedImage(buffer.getvalue(), 'jpg', *image.size, *original)


def _kind(data: bytes) -> tuple:
    """Return the format and the EXIF orientation (0 for none)."""
    with blame_sample('image cannot be decoded'):
        with open_image(data) as image:
            return image.format, image.getexif().get(_ORIENTATION, 0)


def _upright(pixels: np.ndarray, orientation: int) -> Image.Image:
    """Turn an image as its EXIF orientation says."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if orientation not in range(2, 9):
        return image
    image.getexif()[_ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


FORMAT_VERSION = 1
MANIFEST = 'manifest.json'
_FIELDS = dict(name=str, samples=int, bytes=int, sha256=str)


@dataclass(frozen=True)
class ShardOptions:
    """How shards are written.

    ``shard_size`` counts pairs, those left out included; without a seed the
    order is that of the list; sides shorter than ``max_side`` are shrunk to
    it.
    """

    shard_size: int = 10_000
    prefix: str = ''
    seed: int | None = 0
    max_side: int | None = None
    quality: int = 95
    max_broken_share: float = 0.1

    def __post_init__(self) -> None:
        """Check the values."""
        if self.shard_size < 1:
            raise ValueError(
                f'shard_size must be at least 1, got {self.shard_size}'
            )
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(
                f'max_side must be at least 1, got {self.max_side}'
            )
        if not 1 <= self.quality <= 100:
            raise ValueError(
                f'quality must be within [1, 100], got {self.quality}'
            )
        if os.sep in self.prefix:
            raise ValueError(
                f'prefix is a part of a file name, got {self.prefix!r}'
            )


def write_shards(
    pairs: Sequence[Pair],
    out_dir: str,
    options: ShardOptions,
    *,
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write shards and ``manifest.json``, whose content is returned.

    The bytes of the result depend on the pairs, their files and the options,
    not on ``workers``. Shards appear one by one, each whole; the manifest
    last. A run that was broken off goes on where it was: shards are kept whose
    records show the same pairs and options (the images themselves are not
    looked at again).

    The manifest has ``samples``, ``skipped`` (number by reason), ``options``
    and, for each of ``shards``, ``name``, ``samples``, ``bytes``, ``sha256``,
    ``skipped``, ``plan``.

    Raises:
        FileExistsError: If there is a manifest and ``overwrite`` is False.
        ValueError: If too many pairs are broken.
    """
    folder = Path(out_dir)
    if (folder / MANIFEST).exists() and not overwrite:
        raise FileExistsError(
            f'{folder / MANIFEST} is there already; pass '
            '--overwrite or choose another folder'
        )
    folder.mkdir(parents=True, exist_ok=True)
    order = np.arange(len(pairs))
    if options.seed is not None:
        order = np.random.default_rng(options.seed).permutation(order)
    size = options.shard_size
    tasks = [
        _Task(
            str(folder),
            number,
            size * number,
            [pairs[i] for i in order[size * number : size * (number + 1)]],
            options,
        )
        for number in range(math.ceil(len(pairs) / size))
    ]
    _forget(folder, {task.name for task in tasks})
    shards: list[dict[str, Any]] = []
    skipped: Counter = Counter()
    for record in map_in_processes(_write_one, tasks, workers):
        shards.append(record)
        skipped.update(record['skipped'])
        report(
            f'{record["name"]}: {record["samples"]} samples '
            f'({len(shards)} of {len(tasks)} shards)'
        )
    manifest = dict(
        format_version=FORMAT_VERSION,
        samples=sum(s['samples'] for s in shards),
        skipped=dict(sorted(skipped.items())),
        options=asdict(options),
        shards=shards,
    )
    _check_share(skipped, pairs, options, shards)
    write_json(folder / MANIFEST, manifest)
    for record in shards:
        (folder / _record_name(record['name'])).unlink(missing_ok=True)
    return manifest


def _forget(folder: Path, names: set[str]) -> None:
    """Remove an earlier manifest and its shards of other names."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        return
    for name in set(load_manifest(str(manifest))) - names:
        (folder / Path(name).name).unlink(missing_ok=True)
    manifest.unlink()


@dataclass(frozen=True)
class _Task:
    """One shard to write."""

    folder: str
    number: int
    first: int
    pairs: list[Pair]
    options: ShardOptions

    @property
    def name(self) -> str:
        """File name of the shard."""
        return f'{self.options.prefix}{self.number:06d}.tar'

    def plan(self) -> str:
        """Fingerprint of what the shard is made from."""
        options = asdict(self.options)
        del options['max_broken_share']  # changes no byte
        text = json.dumps(
            [
                FORMAT_VERSION,
                self.first,
                options,
                [list(pair) for pair in self.pairs],
            ],
            sort_keys=True,
            default=str,
        )
        return hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()


def _write_one(task: _Task) -> dict[str, Any]:
    """Write one shard, or keep the one that is there."""
    path = Path(task.folder, task.name)
    note = path.with_name(_record_name(task.name))
    plan = task.plan()
    if path.is_file() and note.is_file():
        record = _read_record(note)
        if (
            record.get('plan') == plan
            and record.get('bytes') == path.stat().st_size
        ):
            return record
    note.unlink(missing_ok=True)
    skipped: Counter = Counter()
    samples = 0
    with replacing(path, sync=True) as unfinished:
        with tarfile.open(unfinished, 'w', format=tarfile.USTAR_FORMAT) as tar:
            for i, pair in enumerate(task.pairs, task.first):
                try:
                    with blame_sample('pair cannot be written'):
                        _add_pair(tar, f'{i:09d}', pair, task.options)
                    samples += 1
                except BadSample as error:
                    skipped[error.reason] += 1
        record = dict(
            name=task.name,
            samples=samples,
            bytes=unfinished.stat().st_size,
            sha256=sha256_of(unfinished),
            skipped=dict(sorted(skipped.items())),
            plan=plan,
        )
    write_json(note, record)
    return record


def _add_pair(
    tar: tarfile.TarFile, key: str, pair: Pair, options: ShardOptions
) -> None:
    """Add KEY.jpg (or png, webp), KEY.txt and KEY.json, or nothing."""
    if pair.fault is not None:
        raise BadSample(*pair.fault)
    caption = ' '.join((pair.caption or '').split())
    if not caption:
        raise BadSample(
            'no caption' if pair.caption is None else 'empty caption'
        )
    with blame_sample('file cannot be read'):
        if Path(pair.path).exists() and not Path(pair.path).is_file():
            raise OSError(f'{pair.path} is no plain file')
        data = Path(pair.path).read_bytes()
    image = prepare_image(data, options.max_side, options.quality)
    details = dict(
        pair.extra,
        key=key,
        caption=caption,
        width=image.width,
        height=image.height,
        original_width=image.original_width,
        original_height=image.original_height,
        sha256=hashlib.sha256(image.data).hexdigest(),
    )
    text = json.dumps(details, sort_keys=True, default=str)
    for extension, content in (
        (image.extension, image.data),
        ('txt', caption.encode()),
        ('json', text.encode()),
    ):
        # TarInfo's own time and owner are 0, so that bytes do not vary.
        info = tarfile.TarInfo(f'{key}.{extension}')
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _check_share(
    skipped: Counter,
    pairs: Sequence[Pair],
    options: ShardOptions,
    shards: Sequence[dict[str, Any]],
) -> None:
    """Refuse to call a set finished of which much was left out."""
    number, total = sum(skipped.values()), len(pairs)
    if number == total or number > options.max_broken_share * total:
        listed = ', '.join(f'{n} {r}' for r, n in skipped.most_common())
        first = next((pair.fault[1] for pair in pairs if pair.fault), '')
        raise ValueError(
            f'{number} of {total} pairs cannot be used ({listed}), more than '
            f'max_broken_share={options.max_broken_share}'
            f'{first and f"; the first: {first}"}; {len(shards)} '
            'shards were written, but no manifest'
        )


def _read_record(path: Path) -> dict[str, Any]:
    """Read what a run that was broken off left; {} if it is damaged."""
    try:
        record = read_json(path)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _record_name(shard: str) -> str:
    """Name of the file that tells a run to come that a shard is whole."""
    return f'.{shard}.record.json'


def find_manifest(sources: Sequence[str]) -> str | None:
    """Return the manifest of the folder that is checked, if it has one."""
    if len(sources) == 1 and Path(sources[0], MANIFEST).is_file():
        return str(Path(sources[0], MANIFEST))
    return None


def load_manifest(path: str) -> dict[str, dict[str, Any]]:
    """Read a manifest as shard name -> record.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is no manifest of shards.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no manifest {path!r}')
    try:
        shards = read_json(path)['shards']
        return {_checked(record)['name']: record for record in shards}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path!r} is no manifest of shards: {error!r}'
        ) from error


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record if it has what is compared, in its type."""
    for key, kind in _FIELDS.items():
        if type(record[key]) is not kind:
            raise TypeError(f'{key} is {record[key]!r:.80}')
    if Path(record['name']).name != record['name'] or not record[
        'name'
    ].endswith('.tar'):
        raise ValueError(f'{record["name"]!r:.80} is no name of a shard')
    return record


def map_in_processes(
    function: Callable[[Any], Any], tasks: Iterable[Any], workers: int
) -> Iterator[Any]:
    """Yield a module's function of each task, in order, by some processes."""
    tasks = list(tasks)
    if workers <= 1 or len(tasks) <= 1:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(min(workers, len(tasks))) as pool:
        yield from pool.map(function, tasks)
