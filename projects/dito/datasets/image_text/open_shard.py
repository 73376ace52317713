# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Find and open shards: files, pipes, web and object-store addresses."""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlparse

from webdataset.gopen import Pipe, gopen, set_options
from webdataset.shardlists import expand_urls

from dito.utils.files import require_plain_file

# Program that reads each kind of address; webdataset's gopen starts them,
# except for s3, which it does not know.
_PROGRAMS = dict(
    http='curl',
    https='curl',
    ftp='curl',
    ftps='curl',
    sftp='curl',
    scp='curl',
    hf='curl',
    gs='gsutil',
    s3='aws',
    ais='ais',
)
_BUFFER = 1 << 18


def is_local(url: str) -> bool:
    """Return whether ``url`` is a path or ``file:`` address."""
    return _scheme(url) in ('', 'file')


@contextmanager
def open_shard(url: str) -> Iterator[BinaryIO]:
    """Open a shard for reading.

    A command behind an address is checked at the end: after its output was
    read whole, an exit status other than 0 is an error; one that is left
    early may complain about that without consequence.

    Args:
        url (str): Path, ``file:``, ``pipe:``, ``http(s):``, ``s3:``, ``gs:``
            ... address.

    Yields:
        BinaryIO: The stream; local ones can seek.

    Raises:
        OSError: If it cannot be opened, or its command fails.
    """
    if is_local(url):
        with open(_local_path(url), 'rb', _BUFFER) as file:
            yield file
        return
    if _scheme(url) == 's3':
        pipe = Pipe(
            ['aws', 's3', 'cp', '--quiet', url, '-'],
            mode='rb',
            bufsize=_BUFFER,
        )
    else:
        pipe = gopen(url, 'rb', bufsize=_BUFFER)
    complete = False
    try:
        yield pipe.stream
        while pipe.stream.read(_BUFFER):  # what a tar has after its end
            pass
        complete = True
    finally:
        set_options(pipe, ignore_errors=not complete)
        pipe.close()


def expand_shards(shards: str | Sequence[str]) -> list[str]:
    """Expand shard patterns and check what can be checked without reading.

    Args:
        shards (str or list[str]): Patterns with braces, ``::`` joins lists.

    Returns:
        list[str]: One address a shard.

    Raises:
        FileNotFoundError: If there is none, or a local one is missing.
        ValueError: If an address has an unknown scheme, or the program that
            reads it is not installed.
    """
    patterns = [shards] if isinstance(shards, str) else list(shards)
    urls = [url for pattern in patterns for url in expand_urls(pattern)]
    if not urls:
        raise FileNotFoundError(
            f'shards={shards!r} names no file; give at least one tar'
        )
    missing = [
        url
        for url in urls
        if is_local(url) and not os.path.isfile(_local_path(url))
    ]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(urls)} shards are missing, the first is '
            f'{missing[0]!r}; check the path or the braces of {shards!r}'
        )
    _check_programs(urls)
    return urls


def shard_names(urls: Sequence[str]) -> list[str]:
    """Return a short name for each shard, different for different shards.

    It is the file name without extension, with as many folders before it as
    are needed: ``a/00000.tar`` and ``b/00000.tar`` become ``a/00000`` and
    ``b/00000``. Of a pipe the last word counts.
    """
    parts: dict[str, list[str]] = {}
    for url in urls:
        text = url.split()[-1] if url.split() else url
        text = text.split('?')[0].strip('\'"')
        folder, _, name = text.rpartition('/')
        stem = name.split('.')[0] or name
        parts[url] = [*(p for p in folder.split('/') if p), stem]
    for depth in range(1, 1 + max(len(p) for p in parts.values())):
        names = {url: '/'.join(p[-depth:]) for url, p in parts.items()}
        if len(set(names.values())) == len(names):
            return [names[url] for url in urls]
    # The same file name behind different commands: number them.
    number = {url: i for i, url in enumerate(parts)}
    return [f'{number[url]}:{names[url]}' for url in urls]


def _check_programs(urls: Iterable[str]) -> None:
    """Check that every kind of address can be opened."""
    for scheme in sorted({_scheme(url) for url in urls}):
        if scheme in ('', 'file', 'pipe'):
            continue
        program = _PROGRAMS.get(scheme)
        if program is None:
            raise ValueError(
                f'shards of the kind {scheme}: cannot be opened; give '
                "'pipe:COMMAND' with a command that writes the tar"
            )
        if shutil.which(program) is None:
            raise ValueError(
                f'shards of the kind {scheme}: are read through the program '
                f'{program!r}, which is not installed; install it or give '
                "'pipe:COMMAND'"
            )


def _scheme(url: str) -> str:
    return 'pipe' if url.startswith('pipe:') else urlparse(url).scheme


def _local_path(url: str) -> str:
    """Return the path of a local address; plain paths are left alone."""
    if not url.startswith('file:'):
        return url
    return unquote(urlparse(url).path)


def find_shards(sources: Sequence[str]) -> list[str]:
    """List shards of folders, paths, patterns with braces and addresses.

    Args:
        sources (list[str]): A folder stands for the .tar files in it.

    Returns:
        list[str]: Addresses.

    Raises:
        FileNotFoundError: If one is missing, or a folder has no shard.
    """
    shards: list[str] = []
    for source in sources:
        if Path(source).is_dir():
            found = sorted(str(path) for path in Path(source).glob('*.tar'))
            if not found:
                raise FileNotFoundError(f'{source!r} holds no .tar file')
            for path in found:
                require_plain_file(path)
            shards += found
        else:
            shards += expand_shards(source)
    return shards
