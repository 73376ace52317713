# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Open shards, and walk through their members, reading only what is asked for.

Headers are parsed by Python's ``tarfile``. The rest of it takes a damaged
header for the end of the archive and what is behind an end mark for
nothing, so that samples are missing without a word; reads, before 3.11.10,
hostile attributes in quadratic time (CVE-2024-6232); and cannot tell a pipe
cut off between two members from a whole tar. This walker does, in the formats
in use for shards (ustar, GNU with long names, pax).
"""

import bz2
import glob
import gzip
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlparse

from webdataset.gopen import Pipe, gopen, set_options
from webdataset.shardlists import expand_urls

from dito.utils.files import require_plain_file

BLOCK = 512
# Links, devices and folders: a size in their header has no data after it.
_NO_DATA = frozenset((b'1', b'2', b'3', b'4', b'5', b'6'))
_MAP_GOES_ON = 504  # byte of a block of a sparse file's map
_LONG_NAME, _PAX, _GNU_SPARSE = b'L', b'x', b'S'
# Long link names, attributes of the archive, volume labels ...; any other
# unknown kind is a file, as POSIX has it.
_DESCRIPTIONS = frozenset(
    (b'K', b'g', b'V', b'M', b'D', b'N', b'X', b'A', b'E', b'I')
)
_DECOMPRESSORS = {
    b'\x1f\x8b': gzip.open,
    b'BZh': bz2.open,
    b'\xfd7zXZ': lzma.open,
}
# A damaged size must not ask for more memory than the file has bytes.
_PIECE = 1 << 20
_MAX_ATTRIBUTES = 1 << 20


def decompressor_of(start: bytes) -> Callable[..., Any] | None:
    """Return what opens a stream that begins so; None for plain ones."""
    return next(
        (
            opener
            for magic, opener in _DECOMPRESSORS.items()
            if start.startswith(magic)
        ),
        None,
    )


class TarWalker:
    """Iterate over the regular files of a tar stream.

    Several tars one after another (``cat a.tar b.tar``) are walked as one.

    Args:
        stream (BinaryIO): Open for reading, at the start of the tar. gzip,
            bzip2 and xz are recognised where the stream has ``peek``.
        seekable (bool): Whether to seek over data rather than read it.

    Attributes:
        ended (bool): Whether the last thing met was the mark at the end of
            a tar; one without it may have been cut off between two members.
        tars (int): Number of such marks so far.
        sparse (bool): Whether the current file lacks its zeros, so that what
            is read are other bytes than the file's.
    """

    def __init__(self, stream: BinaryIO, seekable: bool = False) -> None:
        start = stream.peek(6)[:6] if hasattr(stream, 'peek') else b''
        opener = decompressor_of(start)
        if opener is not None:
            stream, seekable = opener(stream), False
        self.stream = stream
        self.seekable = seekable
        self.ended = self.sparse = False
        self.tars = 0
        self._size = self._pending = 0
        self._name = ''

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yield (name, size in bytes) of each regular file.

        tarfile.ReadError if the stream is no tar, is damaged, or ends within a
        member.
        """
        attributes: dict[str, str] = {}
        for header in self._headers():
            kind = header.type
            self._name = attributes.get('path', header.name)
            self._size = header.size
            if kind == _LONG_NAME:
                attributes['path'] = _text(
                    self._attributes().split(b'\0', 1)[0]
                )
                continue
            if kind == _PAX:
                attributes.update(_parse_pax(self._attributes()))
                continue
            self.sparse = kind == _GNU_SPARSE or any(
                key.startswith('GNU.sparse.') for key in attributes
            )
            self._name = attributes.get('GNU.sparse.name', self._name)
            if kind == _GNU_SPARSE:
                self._skip_map(header)
            if 'size' in attributes:
                self._size = _size(attributes['size'])
            self._pending = (
                0 if kind in _NO_DATA else self._size + -self._size % BLOCK
            )
            if kind not in _DESCRIPTIONS:
                attributes = {}
                # Old tars mark a folder by its name alone.
                if kind not in _NO_DATA and not self._name.endswith('/'):
                    yield self._name, self._size
            self._skip(self._pending)

    def read(self) -> bytes:
        """Return the content of the current member; once for each."""
        data = self._exact(self._size)
        self._pending -= self._size
        return data

    def _headers(self) -> Iterator[tarfile.TarInfo]:
        """Yield headers; what is behind one is read before the next."""
        first = True
        while True:
            block = self._up_to(BLOCK)
            if block and not block.strip(b'\0'):
                self.tars += not self.ended
                self.ended = True
            elif block or first:
                try:
                    header = _parse_header(block)
                except tarfile.ReadError as error:
                    if self.ended:
                        raise tarfile.ReadError(
                            'data that is no tar follows the end of the tar'
                        ) from error
                    raise
                self.ended = False
                yield header
            else:
                return
            first = False

    def _skip_map(self, header: tarfile.TarInfo) -> None:
        """Step over the blocks that go on with the map of a sparse file."""
        more = header._sparse_structs[1]
        while more:
            more = self._exact(BLOCK)[_MAP_GOES_ON]

    def _attributes(self) -> bytes:
        """Read a member that describes the next one."""
        if self._size > _MAX_ATTRIBUTES:
            raise tarfile.ReadError(
                f'an extended header of {self._size} bytes is damaged'
            )
        data = self._exact(self._size)
        self._skip(-self._size % BLOCK)
        return data

    def _up_to(self, size: int) -> bytes:
        """Read ``size`` bytes, fewer at the end of the stream."""
        pieces, left = [], size
        try:
            while left > 0 and (piece := self.stream.read(min(left, _PIECE))):
                pieces.append(piece)
                left -= len(piece)
        except (EOFError, lzma.LZMAError, zlib.error) as error:
            raise tarfile.ReadError(
                f'the compressed stream is damaged: {error}'
            ) from error
        return b''.join(pieces)

    def _exact(self, size: int) -> bytes:
        """Read ``size`` bytes or raise."""
        data = self._up_to(size)
        if len(data) < size:
            raise tarfile.ReadError(f'the tar ends within {self._name!r}')
        return data

    def _skip(self, size: int) -> None:
        """Step over ``size`` bytes."""
        if size > 0 and self.seekable:
            try:
                # Read the last one, since a seek past the end is no error.
                self.stream.seek(size - 1, 1)
            except (OSError, OverflowError, ValueError) as error:
                raise tarfile.ReadError(
                    f'the tar ends within {self._name!r}'
                ) from error
            self._exact(1)
            return
        while size > 0:
            piece = min(size, _PIECE)
            self._exact(piece)
            size -= piece


def _parse_header(block: bytes) -> tarfile.TarInfo:
    """Read a header block of 512 bytes; ReadError if it is none."""
    if len(block) != BLOCK:
        raise tarfile.ReadError(
            f'the tar ends within a header, after {len(block)} bytes'
        )
    try:
        header = tarfile.TarInfo.frombuf(block, 'utf-8', 'backslashreplace')
    except tarfile.HeaderError as error:
        raise tarfile.ReadError(
            'the stream is no tar, or it is damaged'
        ) from error
    if header.size < 0:
        raise tarfile.ReadError(f'{header.name!r} has a negative size')
    return header


def _size(text: str) -> int:
    """Read the size in an extended header."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise tarfile.ReadError(f'an extended header has the size {text!r}')
    return int(text)


def _parse_pax(data: bytes) -> dict[str, str]:
    """Read the records ``LENGTH KEY=VALUE`` of an extended header."""
    records = {}
    while data and data[0] != 0:
        length, _, _ = data.partition(b' ')
        if not (length.isdigit() and 5 <= int(length[:9]) <= len(data)):
            raise tarfile.ReadError('an extended header is damaged')
        record, data = data[: int(length)], data[int(length) :]
        key, equals, value = record[len(length) + 1 : -1].partition(b'=')
        if not equals:
            raise tarfile.ReadError('an extended header is damaged')
        records[_text(key)] = _text(value)
    return records


def _text(value: bytes) -> str:
    """Decode a name so that it can always be printed."""
    return value.decode('utf-8', 'backslashreplace')


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
    """Open a shard, a path or any address, for reading; local ones can seek.

    A command behind an address is checked at the end: after its output was
    read whole, an exit status other than 0 is an error; one that is left early
    may complain about that without consequence. OSError if it cannot be
    opened, or its command fails.
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
    """Expand patterns, and check what can be checked without reading.

    ``::`` joins patterns with braces; those of local files may have ``*``,
    ``?`` and ``[]``, and give what fits in the order of the names. Returns
    one address a shard.

    Raises:
        FileNotFoundError: If there is none, or a local one is missing.
        ValueError: If an address has an unknown scheme, or the program that
            reads it is not installed.
    """
    patterns = [shards] if isinstance(shards, str) else list(shards)
    urls = [
        found
        for pattern in patterns
        for url in expand_urls(pattern)
        for found in _files_of(url)
    ]
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


def _files_of(url: str) -> list[str]:
    """Local files that fit a pattern; an address itself."""
    path = _local_path(url) if is_local(url) else ''
    if not glob.has_magic(path) or os.path.isfile(path):
        return [url]
    found = sorted(glob.glob(path))
    if not found:
        raise FileNotFoundError(
            f'No shard fits the pattern {url!r}; check the path.'
        )
    return found


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
    """Shards of folders (their .tar files), paths, patterns and addresses.

    FileNotFoundError if one is missing, or a folder has no shard.
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
