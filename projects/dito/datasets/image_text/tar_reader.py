# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Read image-text pairs from one tar shard, from a given place on.

webdataset's rule splits member names into key and extension. Members are
walked here rather than by webdataset's iterator, because a resumed run must
step over the samples it has seen: a local tar is then walked from header to
header without reading the data between; a pipe is read but nothing is decoded.
"""

import json
import logging
import tarfile
import time
from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, Iterator, Optional, Tuple

from mmengine.logging import print_log
from webdataset.tariterators import base_plus_ext

from .bad_samples import BadSample
from .open_shard import is_local, open_shard
from .tar_walk import TarWalker

IMAGE_EXTENSIONS = ('jpg', 'jpeg', 'png', 'webp')
TEXT_EXTENSION = 'txt'
JSON_EXTENSION = 'json'
DEFAULT_WANTED = frozenset(IMAGE_EXTENSIONS + (TEXT_EXTENSION, ))


@dataclass
class RawSample:
    """The members of one key, still encoded.

    Attributes:
        key (str): Common part of the member names.
        index (int): Place of the sample in its shard, from 0.
        parts (dict[str, bytes]): Extension to content; empty for samples
            before the asked start.
    """

    key: str
    index: int
    parts: Dict[str, bytes] = field(default_factory=dict)
    _metadata: Optional[Dict[str, Any]] = None

    def image(self) -> bytes:
        """Return the encoded image.

        Raises:
            BadSample: If there is none, or it has no bytes.
        """
        for extension in IMAGE_EXTENSIONS:
            if extension in self.parts:
                if not self.parts[extension]:
                    raise BadSample('empty image file')
                return self.parts[extension]
        raise BadSample('no image', f'among {sorted(self.parts)}')

    def metadata(self) -> Dict[str, Any]:
        """Return the content of the json member, {} where there is none.

        Raises:
            BadSample: If it is no json object.
        """
        if self._metadata is None:
            try:
                value = json.loads(self.parts.get(JSON_EXTENSION, b'{}'))
            except ValueError as error:
                raise BadSample('json cannot be read', str(error)) from error
            if not isinstance(value, dict):
                raise BadSample('json cannot be read',
                                f'it is a {type(value).__name__}, no object')
            self._metadata = value
        return self._metadata


def read_shard(url: str, start: int = 0,
               wanted: FrozenSet[str] = DEFAULT_WANTED,
               retries: int = 0) -> Iterator[RawSample]:
    """Yield the samples of a shard from sample number ``start`` on.

    Args:
        url (str): Path or address of a tar file.
        start (int): Number of samples to step over.
        wanted (frozenset[str]): Extensions to read, lower case.
        retries (int): How often a shard that is not local is opened anew
            after an error, to go on with the sample it broke off at.

    Yields:
        RawSample: With the wanted parts read.

    Raises:
        OSError, tarfile.TarError: If the file cannot be opened or ends
            within a member; the samples before have been yielded by then.
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
                f'it again in {wait:.0f} s', logger='current',
                level=logging.WARNING)
        time.sleep(wait)
        retries, wait = retries - 1, 4 * wait


def count_samples(url: str) -> int:
    """Count the samples of a shard by its headers, up to where it breaks."""
    count, last = 0, None
    try:
        with open_shard(url) as stream:
            for key, _ in _named_members(TarWalker(stream, is_local(url))):
                count += key != last
                last = key
    except (OSError, tarfile.TarError) as error:
        print_log(f'Shard {url} breaks off after {count} samples: {error}',
                  logger='current', level=logging.WARNING)
    return count


def _read_once(url: str, start: int,
               wanted: FrozenSet[str]) -> Iterator[RawSample]:
    """Yield samples, without a second try."""
    current = None
    with open_shard(url) as stream:
        walker = TarWalker(stream, is_local(url))
        for key, extension in _named_members(walker):
            if current is None or key != current.key:
                if current is not None and current.index >= start:
                    yield current
                index = 0 if current is None else current.index + 1
                current = RawSample(key, index)
            if current.index >= start and extension in wanted:
                current.parts[extension] = walker.read()
        # A file that lacks the mark is most likely whole, since it was
        # copied or not; a stream is as likely cut off.
        if not walker.ended and not is_local(url):
            raise tarfile.ReadError('the tar ends without its end mark')
        if current is not None and current.index >= start:
            yield current


def _named_members(walker: TarWalker) -> Iterator[Tuple[str, str]]:
    """Yield (key, lower-case extension) of the regular files."""
    for name, _ in walker:
        key, extension = base_plus_ext(name)
        if key is not None:
            yield key, extension.lower()
