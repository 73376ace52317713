# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Reading of the release's checkpoints in the forms they come in.

None of these runs code from a file: npz without pickles, msgpack, the arrays
of an orbax folder and the variables of a TensorFlow SavedModel, whose graph
is not loaded.

These variables are a *tensor bundle*: ``PREFIX.index``, a sorted table of
LevelDB's format from the names to type, shape and place of each array, and
``PREFIX.data-00000-of-00001`` and so on, their raw bytes. Formats:
``table_format.md`` of LevelDB, ``tensor_bundle.proto`` of TensorFlow. The data
is mapped and not copied; checksums of arrays are left to the archive.
"""

import importlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dito.utils.official.layout import OfficialSizes, leaf_order

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


Tree = dict[str, np.ndarray]

# Flax's msgpack extension types.
_NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = '__msgpack_chunked_array__'
_VARIABLE = re.compile(r'variables/(\d+)/\.ATTRIBUTES/VARIABLE_VALUE')


def read_checkpoint(
    path: str | Path,
    sizes: OfficialSizes = OfficialSizes(),  # noqa: B008
) -> tuple[str, Tree]:
    """Read a checkpoint of the release: its form, and the arrays by path.

    Forms: a ``.npz`` with names such as 'vision_model/conv1/kernel'; a file in
    Flax's 'msgpack', or a folder of such files ``checkpoint_N``, of which the
    last is taken; an 'orbax' folder; a folder of a 'SavedModel', whose
    variables have numbers and no names, so that its ``sizes`` count.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If it is none of these, damaged, or needs a package that is
            not installed.
    """
    path = Path(os.path.expanduser(path))
    if not path.exists():
        raise FileNotFoundError(
            f'The checkpoint {path} does not exist; check the path.'
        )
    if path.is_dir():
        return _read_folder(path, sizes)
    with open(path, 'rb') as file:
        head = file.read(4)
    if head == b'PK\x03\x04':
        return 'npz', _read_npz(path)
    return 'msgpack', flatten(_read_msgpack(path))


def _read_folder(path: Path, sizes: OfficialSizes) -> tuple[str, Tree]:
    if (path / 'saved_model.pb').is_file():
        return 'SavedModel', name_variables(_read_variables(path), sizes)
    if any(
        (path / name).exists()
        for name in (
            '_METADATA',
            '_CHECKPOINT_METADATA',
            'manifest.ocdbt',
            '_sharding',
        )
    ):
        return 'orbax', flatten(_read_orbax(path))
    steps = sorted(
        (int(p.name.rpartition('_')[2]), p)
        for p in path.glob('checkpoint_*')
        if p.name.rpartition('_')[2].isdigit()
    )
    if steps:
        return read_checkpoint(steps[-1][1], sizes)
    names = sorted(p.name for p in path.iterdir())[:5]
    raise ValueError(
        f'{path} is no checkpoint of the release: neither a SavedModel '
        '(saved_model.pb) nor orbax (_METADATA) nor Flax (checkpoint_N); it '
        f'holds {names}.'
    )


def _read_npz(path: Path) -> Tree:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and numpy have their own
        raise ValueError(
            f'{path} is damaged, or holds more than arrays: '
            f'{type(error).__name__} {error}.'
        ) from error


def need_package(module: str, package: str, what: str) -> Any:
    """Import an optional package or say which to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f'Reading {what} needs {package}, which is not '
            f'installed: pip install {package}.'
        ) from error


def _read_msgpack(path: Path) -> Any:
    """Nested dicts of a file written by flax.serialization."""
    msgpack = need_package('msgpack', 'msgpack', f'the Flax checkpoint {path}')

    def decode(kind: int, data: bytes) -> Any:
        if kind == _COMPLEX:
            return complex(*msgpack.unpackb(data))
        if kind not in (_NDARRAY, _SCALAR):
            raise ValueError(f'unknown extension type {kind}')
        shape, name, content = msgpack.unpackb(data, raw=False)
        array = _from_bytes(content, name).reshape(shape)
        return array if kind == _NDARRAY else array[()]

    try:
        return msgpack.unpackb(
            path.read_bytes(), ext_hook=decode, raw=False, strict_map_key=False
        )
    except Exception as error:  # msgpack's errors have no common type
        raise ValueError(
            f'{path} is neither .npz nor a Flax checkpoint in msgpack, or is '
            f'damaged: {type(error).__name__} {error}.'
        ) from error


def _from_bytes(content: bytes, name: str) -> np.ndarray:
    """Array of raw bytes; bfloat16, which numpy has not, as float32."""
    if name == 'bfloat16':
        bits = np.frombuffer(content, np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32)
    return np.frombuffer(content, np.dtype(name))


def _read_orbax(path: Path) -> Any:
    ocp = need_package(
        'orbax.checkpoint', 'orbax-checkpoint', f'the orbax checkpoint {path}'
    )
    with ocp.PyTreeCheckpointer() as reader:
        shapes = reader.metadata(path.resolve())
        tree = getattr(shapes, 'item_metadata', shapes)
        tree = getattr(tree, 'tree', tree)
        as_numpy = _map(
            tree, lambda _: ocp.RestoreArgs(restore_type=np.ndarray)
        )
        return reader.restore(path.resolve(), restore_args=as_numpy)


def _map(tree: Any, function: Any) -> Any:
    """Apply a function to the leaves of nested dicts and lists."""
    if isinstance(tree, Mapping):
        return {key: _map(value, function) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_map(value, function) for value in tree]
    return function(tree)


def _read_variables(path: Path) -> list[np.ndarray]:
    """Variables of a SavedModel by number, without loading its graph."""
    found = {}
    for name, array in read_bundle(path / 'variables' / 'variables').items():
        number = _VARIABLE.fullmatch(name)
        if number:
            found[int(number[1])] = array
    if sorted(found) != list(range(len(found))) or not found:
        raise ValueError(
            f'{path} is no SavedModel of the release: its variables are not '
            'numbered variables/0, variables/1 and so on.'
        )
    return [found[i] for i in range(len(found))]


def name_variables(
    arrays: list[np.ndarray],
    sizes: OfficialSizes = OfficialSizes(),  # noqa: B008
) -> Tree:
    """Give the numbered variables of an exported detector their paths.

    The release's export flattens the tree of parameters, which sorts each
    level by name. Number and shapes of all arrays must agree with the sizes,
    else ValueError.
    """
    candidates = [sizes.detector(mask) for mask in (True, False)]
    for shapes in candidates:
        names = leaf_order(shapes)
        if len(names) != len(arrays):
            continue
        wrong = [
            f'{i} ({name}) {tuple(array.shape)} instead of {shapes[name]}'
            for i, (name, array) in enumerate(zip(names, arrays, strict=True))
            if tuple(array.shape) != shapes[name]
        ]
        if wrong:
            raise ValueError(
                f'{len(wrong)} variables of the SavedModel have another shape '
                f'than the release: {", ".join(wrong)}.'
            )
        return dict(zip(names, arrays, strict=True))
    raise ValueError(
        f'The SavedModel has {len(arrays)} variables; a detector of these '
        f'sizes has {" or ".join(str(len(c)) for c in candidates)} (with or '
        'without masks).'
    )


def flatten(tree: Any, prefix: str = '') -> Tree:
    """Flatten nested dicts to paths, and join arrays stored in chunks.

    None and empty groups are left out; other leaves are a ValueError.
    """
    if isinstance(tree, (list, tuple)):
        tree = {str(i): value for i, value in enumerate(tree)}
    if not isinstance(tree, Mapping):
        if not prefix:
            raise ValueError(
                f'The checkpoint holds a {type(tree).__name__}, not a tree of '
                'parameters.'
            )
        return _leaf(tree, prefix)
    if _CHUNKED in tree:
        parts = [tree['chunks'][str(i)] for i in range(len(tree['chunks']))]
        shape = [tree['shape'][str(i)] for i in range(len(tree['shape']))]
        joined = np.concatenate([np.ravel(p) for p in parts]).reshape(
            [int(side) for side in shape]
        )
        return {prefix: joined}
    flat: Tree = {}
    for key, value in tree.items():
        flat.update(flatten(value, f'{prefix}/{key}' if prefix else str(key)))
    return flat


def _leaf(value: Any, path: str) -> Tree:
    if value is None:
        return {}
    array = np.asarray(value)
    if array.dtype.name == 'bfloat16':
        array = array.astype(np.float32)
    if array.dtype.kind not in 'biufc':
        raise ValueError(
            f'{path} is {value!r:.60}, not an array; a checkpoint written by '
            'several hosts has to be gathered into one file first.'
        )
    return {path: array}
