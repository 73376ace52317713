# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Read image-text pairs from one tar shard, from a given place on.

webdataset's rule splits member names into key and extension: the key ends at
the first dot of the file name. Members are walked here, since a resumed run
must step over the samples it has seen: a local tar is then walked from header
to header without reading the data between; a pipe is read but nothing is
decoded. Loader, check, statistics and counting all walk by :func:`read_shard`.
"""

import json
import logging
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mmengine.logging import print_log
from webdataset.tariterators import base_plus_ext

from .bad_samples import BadSample, blame_sample
from .tar_walk import TarWalker, is_local, open_shard

IMAGE_EXTENSIONS = ('jpg', 'jpeg', 'png', 'webp')
TEXT_EXTENSION = 'txt'
JSON_EXTENSION = 'json'
DEFAULT_WANTED = frozenset(IMAGE_EXTENSIONS + (TEXT_EXTENSION,))
ALL_WANTED = DEFAULT_WANTED | {JSON_EXTENSION}
# No image or caption is larger; a damaged or hostile file may say so.
MAX_MEMBER = 1 << 28


@dataclass
class RawSample:
    """The members of one key, still encoded.

    Attributes:
        index: Place of the sample in its shard, from 0.
        parts: Extension to content; empty for samples before the asked start.
        places: Extension to the place of its content in a plain, local file.
        fault: Reason and detail of why it cannot be used, known from the names
            and sizes of its members.
    """

    key: str
    index: int
    parts: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    fault: tuple[str, str] | None = None
    _metadata: dict[str, Any] | None = None

    def image(self) -> bytes:
        """The encoded image; BadSample without one, or with a fault."""
        if self.fault is not None:
            raise BadSample(*self.fault)
        for extension in IMAGE_EXTENSIONS:
            if extension in self.parts:
                if not self.parts[extension]:
                    raise BadSample('empty image file')
                return self.parts[extension]
        raise BadSample('no image', f'among {sorted(self.parts)}')

    def metadata(self) -> dict[str, Any]:
        """Content of the json member, {} without; BadSample if no object."""
        if self._metadata is None:
            with blame_sample('json cannot be read'):
                value = json.loads(self.parts.get(JSON_EXTENSION, b'{}'))
            if not isinstance(value, dict):
                raise BadSample(
                    'json cannot be read',
                    f'it is a {type(value).__name__}, no object',
                )
            self._metadata = value
        return self._metadata


def read_shard(
    url: str,
    start: int = 0,
    wanted: frozenset[str] = DEFAULT_WANTED,
    retries: int = 0,
) -> Iterator[RawSample]:
    """Yield the samples of a shard from number ``start`` on.

    ``wanted`` are lower-case extensions of parts that are read; ``retries``,
    how often a shard that is not local is opened anew after an error, to go on
    with the sample it broke off at. OSError, tarfile.TarError if the file
    cannot be opened or ends within a member; the samples before have been
    yielded by then.
    """
    wait = 1.0
    while True:
        try:
            for sample in _read_once(url, start, wanted):
                start = sample.index + 1
                yield sample
            return
        except (OSError, tarfile.TarError) as error:
            if retries <= 0 or is_local(url):
                raise
            print_log(
                f'Shard {url} broke off at sample {start} ({error}); opening '
                f'it again in {wait:.0f} s',
                logger='current',
                level=logging.WARNING,
            )
        time.sleep(wait)
        retries, wait = retries - 1, 4 * wait


def count_samples(url: str, limit: int | None = None) -> int:
    """Count the samples of a shard by its headers, up to where it breaks."""
    count = 0
    try:
        for _ in islice(_read_once(url, 0, frozenset()), limit):
            count += 1
    except (OSError, tarfile.TarError) as error:
        print_log(
            f'Shard {url} breaks off after {count} samples: {error}',
            logger='current',
            level=logging.WARNING,
        )
    return count


def _read_once(
    url: str, start: int, wanted: frozenset[str]
) -> Iterator[RawSample]:
    """Yield samples, without a second try."""
    with open_shard(url) as stream:
        walker = TarWalker(stream, is_local(url))
        group = _Group('', 0, 0)
        try:
            for name, size in walker:
                key, extension = base_plus_ext(name)
                if key is None:
                    continue
                # Two tars in one file may end and begin with the same key, and
                # neighbours have it where folders were put into one.
                if (key, walker.tars) != (group.key, group.tar) or (
                    group.has(extension.lower())
                ):
                    yield from group.samples(start)
                    group = _Group(key, walker.tars, group.end())
                group.add(extension.lower(), size, walker, start, wanted)
        except tarfile.ReadError:
            if walker.ended:  # the damage is behind a whole tar
                yield from group.samples(start)
            raise
        # A file that lacks the mark is most likely whole, since it was
        # copied or not; a stream is as likely cut off.
        if not walker.ended and not is_local(url):
            raise tarfile.ReadError('the tar ends without its end mark')
        yield from group.samples(start)


class _Group:
    """Neighbouring members of one key, most often a sample."""

    def __init__(self, key: str, tar: int, first: int) -> None:
        self.key = key
        self.tar = tar
        self.sample = RawSample(key, first)
        self._plain: set[str] = set()
        self._dotted: dict[str, set[str]] = {}

    def has(self, extension: str) -> bool:
        """Whether a member of the key itself has been met."""
        return extension in self._plain

    def add(
        self,
        extension: str,
        size: int,
        walker: TarWalker,
        start: int,
        wanted: frozenset[str],
    ) -> None:
        """Take note of a member, and read it if it is wanted."""
        middle, _, last = extension.rpartition('.')
        if middle and extension not in wanted:
            self._dotted.setdefault(middle, set()).add(last)
            return
        self._plain.add(extension)
        if extension not in wanted or self.sample.index < start:
            return
        if size > MAX_MEMBER:
            self.sample.fault = (
                'file too large',
                (f'.{extension} has {size} bytes, the limit is {MAX_MEMBER}'),
            )
            return
        if walker.sparse:
            self.sample.fault = (
                'sparse file',
                (
                    f'.{extension} was written with holes; write the tar anew '
                    'without --sparse'
                ),
            )
            return
        if walker.seekable:
            self.sample.places[extension] = walker.stream.tell()
        self.sample.parts[extension] = walker.read()

    def samples(self, start: int) -> list[RawSample]:
        """Return the samples from number ``start`` on."""
        lost = self._lost()
        first = self.sample.index
        found = [self.sample] if self._is_sample(lost) else []
        for number, middle in enumerate(lost, first + len(found)):
            key = f'{self.key}.{middle}'
            found.append(
                RawSample(
                    key,
                    number,
                    fault=(
                        'name with dots',
                        f'the key of {key} ends at the first dot, '
                        'so it must have none; rename the files',
                    ),
                )
            )
        return [sample for sample in found if sample.index >= start]

    def end(self) -> int:
        """Return the index of the sample after these."""
        lost = self._lost()
        return self.sample.index + self._is_sample(lost) + len(lost)

    def _is_sample(self, lost: list[str]) -> bool:
        """Whether the members of the key itself make a sample."""
        return bool(self._plain) and not (
            lost and self._plain.isdisjoint(IMAGE_EXTENSIONS)
        )

    def _lost(self) -> list[str]:
        """Parts of names with dots that are samples by themselves."""
        own = not self._plain.isdisjoint(IMAGE_EXTENSIONS)
        return [
            middle
            for middle, kinds in self._dotted.items()
            if not kinds.isdisjoint(IMAGE_EXTENSIONS)
            and (TEXT_EXTENSION in kinds or not own)
        ]
