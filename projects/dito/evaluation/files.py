# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Reading and writing of json files of evaluations."""

import contextlib
import gc
import hashlib
import json
import os
from typing import Any, Iterable, Iterator, Optional

from mmengine.fileio import get_text


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


def read_json(path: str, backend_args: Optional[dict] = None) -> Any:
    """Read a json file.

    Args:
        path (str): Path of the file.
        backend_args (dict, optional): File backend of MMEngine.

    Returns:
        Any: Its content.

    Raises:
        ValueError: If it is not json.
    """
    text = get_text(path, backend_args=backend_args)
    try:
        with collector_paused():
            return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{path} is not a json file, or was cut off: {error}'
        ) from error


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[Any]:
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


def write_json(path: str, content: Any, indent: Optional[int] = None) -> None:
    """Write a file so that it is never seen half written.

    Args:
        path (str): Path; its folder is made.
        content (Any): What json can hold.
        indent (int, optional): Spaces a level; None writes one line.
    """
    with _replacing(path) as file:
        json.dump(content, file, indent=indent)


def write_json_list(path: str, parts: Iterable[list]) -> None:
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


def sha256_of(path: 'str | os.PathLike') -> str:
    """Hash a file.

    Args:
        path (str | PathLike): The file.

    Returns:
        str: 64 hexadecimal digits, as ``sha256sum`` prints them.
    """
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
