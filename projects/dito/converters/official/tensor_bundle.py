# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""TensorFlow's checkpoint files, read without TensorFlow.

The variables of a SavedModel are a *tensor bundle*: ``PREFIX.index``, a
sorted table of LevelDB's format from the names to type, shape and place of
each array, and ``PREFIX.data-00000-of-00001`` and so on, their raw bytes.
Formats: ``table_format.md`` of LevelDB, ``tensor_bundle.proto`` of
TensorFlow. The data is mapped and not copied; checksums of arrays are left
to the archive they came in.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

_FOOTER, _TRAILER = 48, 5
_MAGIC = bytes.fromhex('57fb808b247547db')
# Of types.proto; texts (7), such as the graph of objects, are left out.
_TYPES = {
    1: '<f4',
    2: '<f8',
    3: '<i4',
    4: 'u1',
    5: '<i2',
    6: 'i1',
    9: '<i8',
    10: '?',
    14: 'bfloat16',
    17: '<u2',
    19: '<f2',
    22: '<u4',
    23: '<u8',
}
_TEXT = 7
# Wire types of protocol buffers.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_bundle(prefix: str | Path) -> dict[str, np.ndarray]:
    """Read the arrays of a bundle by name; bfloat16 comes as float32.

    ``prefix`` is the path of the files without ``.index``; arrays are
    read-only.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If it is damaged, or of a kind that is not read.
    """
    prefix = Path(prefix)
    index = prefix.with_name(f'{prefix.name}.index')
    if not index.is_file():
        raise FileNotFoundError(
            f'{index} does not exist; unpack the archive again.'
        )
    try:
        entries = dict(_table(index.read_bytes()))
        header = _fields(entries.pop(b''))
        shards = [_shard(prefix, i, header[1]) for i in range(header[1])]
        return {
            name.decode(): array
            for name, entry in entries.items()
            if (array := _array(_fields(entry), shards)) is not None
        }
    except (
        IndexError,
        KeyError,
        TypeError,
        UnicodeDecodeError,
        ValueError,
    ) as error:
        raise ValueError(
            f'{index} is damaged, or no checkpoint of TensorFlow: '
            f'{type(error).__name__} {error}.'
        ) from error


def _shard(prefix: Path, number: int, count: int) -> np.ndarray:
    path = prefix.with_name(f'{prefix.name}.data-{number:05d}-of-{count:05d}')
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} does not exist; unpack the archive again.'
        )
    if not path.stat().st_size:  # which cannot be mapped
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, 'r')


def _array(entry: dict, shards: list[np.ndarray]) -> np.ndarray | None:
    """Array of an entry; None for a text."""
    kind = entry[1]
    if kind == _TEXT:
        return None
    if kind not in _TYPES or 7 in entry:
        raise ValueError(f'an array has the type {kind} or is in slices')
    shape = [_fields(d).get(1, 0) for d in _all(entry.get(2, b''), 2)]
    start, size = entry.get(4, 0), entry.get(5, 0)
    raw = shards[entry.get(3, 0)][start : start + size]
    if len(raw) != size:
        raise ValueError(f'an array of {size:,} bytes has {len(raw):,}')
    if _TYPES[kind] == 'bfloat16':
        bits = raw.view('<u2').astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    return raw.view(_TYPES[kind]).reshape(shape)


# ------------------------------------------------------------ sorted table


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a file in LevelDB's table format."""
    footer = content[-_FOOTER:]
    if len(footer) < _FOOTER or not footer.endswith(_MAGIC):
        raise ValueError('it does not end as a table')
    _, at = _handle(footer, 0)  # of the meta index
    place, _ = _handle(footer, at)
    for _, handle in _block(content, *place):
        yield from _block(content, *_handle(handle, 0)[0])


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and where its handle ends."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(
    content: bytes, offset: int, size: int
) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key begins as the one before it."""
    block = content[offset : offset + size]
    if len(content) < offset + size + _TRAILER or content[offset + size]:
        raise ValueError('a block is cut off or compressed')
    restarts = int.from_bytes(block[-4:], 'little')
    end = size - 4 * (restarts + 1)
    key, at = b'', 0
    while at < end:
        shared, at = _varint(block, at)
        more, at = _varint(block, at)
        length, at = _varint(block, at)
        if at + more + length > end:
            raise ValueError('an entry is longer than its block')
        key = key[:shared] + block[at : at + more]
        at += more + length
        yield key, block[at - length : at]


# -------------------------------------------------------- protocol buffers


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _wire(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value, at = (
                int.from_bytes(data[at : at + size], 'little'),
                at + size,
            )
        elif kind == _BYTES:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f'a field has the wire type {kind}')
        if at > len(data):
            raise ValueError('a field is cut off')
        yield tag >> 3, value


def _fields(data: bytes) -> dict:
    """Last value of each field, as protocol buffers have it."""
    return dict(_wire(data))


def _all(data: bytes, number: int) -> list:
    """All values of a repeated field."""
    return [value for key, value in _wire(data) if key == number]
