# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Walk through the members of a tar stream, reading only what is asked for.

Headers are parsed by Python's ``tarfile``. The rest of it does not serve for
shards that come from anywhere and are read for weeks: it takes a damaged
header for the end of the archive and what stands behind an end mark for
nothing, so that samples are missing without a word; before Python 3.11.10 it
reads damaged attributes as names, and hostile ones in quadratic time
(CVE-2024-6232); and on a pipe it cannot tell a tar that was cut off between
two members from a whole one. This walker does, in the formats in use for
shards (ustar, GNU with long names, pax).
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

BLOCK = 512
_ZEROS = bytes(BLOCK)
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

        Raises:
            tarfile.ReadError: If the stream is no tar, is damaged, or ends
                within a member.
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
                    header = parse_header(block)
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


def parse_header(block: bytes) -> tarfile.TarInfo:
    """Read one header block.

    Args:
        block (bytes): 512 bytes.

    Returns:
        tarfile.TarInfo: Name, size and kind of the member are set.

    Raises:
        tarfile.ReadError: If it is no header: too short, or its sum differs.
    """
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
