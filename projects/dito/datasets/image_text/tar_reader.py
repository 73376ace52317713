# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Read image-text pairs from one tar shard, from a given place on.

Files are opened by webdataset's ``gopen`` (local paths, ``pipe:``, ``http:``,
``s3:`` through pipes ...), and its rule splits member names into key and
extension. Members are walked here rather than by webdataset's iterator,
because a resumed run must step over the samples it has seen: a local tar is
then walked from header to header without reading the data between.
"""

import logging
import tarfile
from dataclasses import dataclass, field
from typing import Dict, Iterator, Tuple
from urllib.parse import urlparse

from mmengine.logging import print_log
from webdataset.gopen import gopen
from webdataset.tariterators import base_plus_ext

IMAGE_EXTENSIONS = ('jpg', 'jpeg', 'png', 'webp')
TEXT_EXTENSION = 'txt'
_WANTED = frozenset(IMAGE_EXTENSIONS + (TEXT_EXTENSION, ))


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


def is_local(url: str) -> bool:
    """Return whether ``url`` is a path or ``file:`` address."""
    return urlparse(url).scheme in ('', 'file')


def read_shard(url: str, start: int = 0) -> Iterator[RawSample]:
    """Yield the samples of a shard from sample number ``start`` on.

    Args:
        url (str): Path or address of a tar file.
        start (int): Number of samples to step over.

    Yields:
        RawSample: With the image and text parts read.

    Raises:
        OSError, tarfile.TarError: If the file cannot be opened or ends
            within a member; the samples before have been yielded by then.
    """
    # Seeking needs a plain local tar; anything else is a forward stream.
    mode = 'r:' if is_local(url) and url.endswith('.tar') else 'r|*'
    current = None
    with gopen(url) as stream, tarfile.open(fileobj=stream,
                                            mode=mode) as tar:
        for key, extension, member in _named_members(tar):
            if current is None or key != current.key:
                if current is not None and current.index >= start:
                    yield current
                index = 0 if current is None else current.index + 1
                current = RawSample(key, index)
            if current.index >= start and extension in _WANTED:
                current.parts[extension] = tar.extractfile(member).read()
    if current is not None and current.index >= start:
        yield current


def count_samples(url: str) -> int:
    """Count the samples of a shard by its headers, up to where it breaks."""
    mode = 'r:' if is_local(url) and url.endswith('.tar') else 'r|*'
    count, last = 0, None
    try:
        with gopen(url) as stream, tarfile.open(fileobj=stream,
                                                mode=mode) as tar:
            for key, _, _ in _named_members(tar):
                count += key != last
                last = key
    except (OSError, tarfile.TarError) as error:
        print_log(f'Shard {url} breaks off after {count} samples: {error}',
                  logger='current', level=logging.WARNING)
    return count


def _named_members(
    tar: tarfile.TarFile
) -> Iterator[Tuple[str, str, tarfile.TarInfo]]:
    """Yield (key, lower-case extension, member) of the regular files."""
    for member in tar:
        if member.isreg():
            key, extension = base_plus_ext(member.name)
            if key is not None:
                yield key, extension.lower(), member
        tar.members = []  # tarfile keeps every header otherwise
