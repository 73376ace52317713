# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Json files: read with clear errors, written whole or not at all."""

import contextlib
import gc
import json
import os
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple, Union

from mmengine.fileio import get

from .annotation_values import show

PathLike = Union[str, 'os.PathLike[str]']

# Python's objects take at least this many times the size of their text.
_OBJECTS = 4
_GZIP = b'\x1f\x8b'


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's garbage collector.

    Each of the millions of small objects of an annotation file is alive, but
    the collector walks over all of them again and again while they are made:
    more than half of the time of loading.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_json(path: PathLike, backend_args: Optional[dict] = None) -> Any:
    """Read a json file, in any encoding that json knows.

    Args:
        path (str | Path): Path of the file.
        backend_args (dict, optional): File backend of MMEngine.

    Returns:
        Any: Its content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not json, if a key stands twice in an object
            with different values, or if it does not fit into memory.
    """
    path = os.fspath(path)
    try:
        if backend_args is None and os.path.isfile(path):
            _refuse_huge(path)
        with collector_paused():
            content = get(path, backend_args=backend_args)
            if content.startswith(_GZIP):
                raise _RefusedError(
                    f'{path} is compressed by gzip; unpack it first'
                )
            return json.loads(content, object_pairs_hook=_unite)
    except _RepeatedKeyError as error:
        raise ValueError(f'{path}: {error}') from error
    except ValueError as error:
        if isinstance(error, _RefusedError):
            raise
        raise ValueError(
            f'{path} is not valid JSON ({error}); if it was downloaded, it '
            'may be incomplete'
        ) from error
    except RecursionError as error:
        raise ValueError(
            f'{path} is nested too deeply to be what is expected here'
        ) from error
    except MemoryError as error:
        raise _RefusedError(
            f'{path} does not fit into memory; divide it'
        ) from error


class _RefusedError(ValueError):
    """A file that is not read, for a reason of its own."""


class _RepeatedKeyError(ValueError):
    """An object of which it is not clear what it holds."""


def _unite(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """Make an object; json itself would keep the last of several values."""
    united = dict(pairs)
    if len(united) < len(pairs):
        first: Dict[str, Any] = {}
        for key, value in pairs:
            if first.setdefault(key, value) != value:
                raise _RepeatedKeyError(
                    f'an object has {show(key)} twice, with different '
                    'values; keep one'
                )
    return united


def _refuse_huge(path: str) -> None:
    """Stop before the machine does, at a file that cannot fit."""
    size = os.path.getsize(path) >> 20
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') >> 20
    if size * _OBJECTS > memory:
        raise _RefusedError(
            f'{path} has {size:,} MiB and needs over {_OBJECTS} times that '
            f'to be read, but this machine has {memory:,} MiB of memory; '
            'divide it'
        )


@contextlib.contextmanager
def _replacing(path: PathLike) -> Iterator[Any]:
    """Open a file that takes its place only when it is complete."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    unfinished = f'{path}.{os.getpid()}.tmp'
    try:
        with open(unfinished, 'w', encoding='utf-8') as file:
            yield file
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(unfinished)


def write_json(
    path: PathLike, content: Any, indent: Optional[int] = None
) -> None:
    """Write a file so that it is never seen half written.

    Args:
        path (str): Path; its folder is made.
        content (Any): What json can hold.
        indent (int, optional): Spaces a level; None writes one line.
    """
    with _replacing(path) as file:
        json.dump(content, file, indent=indent)


def write_json_list(path: PathLike, parts: Iterable[list]) -> None:
    """Write one long list, a part at a time; atomic like the other.

    Args:
        path (str): Path; its folder is made.
        parts (Iterable[list]): Consecutive parts of the list.
    """
    with _replacing(path) as file:
        file.write('[')
        separator = ''
        for part in parts:
            for item in part:
                file.write(separator + json.dumps(item))
                separator = ', '
        file.write(']')
