# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Reading of the release's checkpoints in the forms they come in.

None of these runs code from a file: npz without pickles, msgpack, the arrays
of an orbax folder and the variables of a TensorFlow SavedModel, whose graph
is not loaded.
"""

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dito.utils.official.layout import OfficialSizes, leaf_order

from .tensor_bundle import read_bundle

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
