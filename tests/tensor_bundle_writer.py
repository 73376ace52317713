# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""TensorFlow's checkpoint files in small, as TensorFlow writes them."""

from pathlib import Path

import numpy as np

from dito.utils.official.layout import leaf_order

MAGIC = bytes.fromhex('57fb808b247547db')
TYPES = {'float32': 1, 'float64': 2, 'int32': 3, 'int64': 9, 'float16': 19}


def varint(value: int) -> bytes:
    out = b''
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """Entries that share what their keys begin with; no compression."""
    out, before = b'', b''
    for key, value in pairs:
        shared = next(
            (
                i
                for i, (a, b) in enumerate(zip(key, before, strict=False))
                if a != b
            ),
            min(len(key), len(before)),
        )
        out += (
            varint(shared)
            + varint(len(key) - shared)
            + varint(len(value))
            + key[shared:]
            + value
        )
        before = key
    return out + bytes(4) + (1).to_bytes(4, 'little')


def write_bundle(
    prefix: Path, arrays: dict[str, np.ndarray], entries: int = 7
) -> None:
    """Write ``prefix.index`` and its data.

    Args:
        prefix (Path): Path of the files.
        arrays (dict[str, ndarray]): By name.
        entries (int): Entries a block.
    """
    data, pairs = b'', [(b'', field(1, 1))]
    for name, array in sorted(arrays.items()):
        raw = np.ascontiguousarray(array).tobytes()
        shape = b''.join(field(2, field(1, n)) for n in array.shape)
        pairs.append(
            (
                name.encode(),
                field(1, TYPES[str(array.dtype)])
                + field(2, shape)
                + field(4, len(data))
                + field(5, len(raw)),
            )
        )
        data += raw
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(f'{prefix.name}.data-00000-of-00001').write_bytes(data)
    out, index = b'', []
    for at in range(0, len(pairs), entries):
        part = pairs[at : at + entries]
        index.append(
            (part[-1][0], varint(len(out)) + varint(len(block(part))))
        )
        out += block(part) + bytes(5)
    handles = []
    for content in (block([]), block(index)):
        handles.append(varint(len(out)) + varint(len(content)))
        out += content + bytes(5)
    footer = b''.join(handles)
    out += footer + bytes(40 - len(footer)) + MAGIC
    prefix.with_name(f'{prefix.name}.index').write_bytes(out)


def write_saved_model(folder: Path, params: dict[str, np.ndarray]) -> None:
    """Write a detector as the release exports it: variables by number."""
    arrays = {
        f'variables/{i}/.ATTRIBUTES/VARIABLE_VALUE': np.asarray(params[name])
        for i, name in enumerate(leaf_order(params))
    }
    arrays['save_counter/.ATTRIBUTES/VARIABLE_VALUE'] = np.int64([1])
    write_bundle(folder / 'variables' / 'variables', arrays)
    (folder / 'saved_model.pb').write_bytes(b'not read')
