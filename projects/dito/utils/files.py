# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Files: read with clear errors, written whole or not at all."""

import codecs
import contextlib
import gc
import hashlib
import json
import os
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmengine.fileio import get

PathLike = str | os.PathLike

# Python's objects take at least this many times the size of their text.
_OBJECTS = 4
_GZIP = b'\x1f\x8b'
# File systems take names of 255 bytes; what is put before a name needs some.
_LONG_NAME = 200
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, 'utf-8-sig'),
    (codecs.BOM_UTF32_LE, 'utf-32'),
    (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)

# ------------------------------------------------------------------ reading


def require_plain_file(path: PathLike) -> None:
    """Refuse what is there and has no end, such as a pipe or ``/dev/zero``.

    Paths out of annotations, tables and folders of strangers go through here
    before they are opened; what is missing is left to whoever opens it.
    ValueError also for a folder.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # missing, or no path at all
        return
    if not stat.S_ISREG(mode):
        kind = 'folder' if stat.S_ISDIR(mode) else 'pipe or device'
        raise ValueError(
            f'{path} is a {kind}, not a file; remove it, or correct the path'
        )


def encoding_of(start: bytes) -> str:
    """Encoding of a text by its byte-order mark, else 'utf-8'."""
    return next(
        (name for mark, name in _MARKS if start.startswith(mark)), 'utf-8'
    )


def sha256_of(path: PathLike) -> str:
    """Hash a file of any size, as ``sha256sum`` prints it."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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


def read_json(path: PathLike, backend_args: dict | None = None) -> Any:
    """Read a json file, in any encoding that json knows.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not json, if a key appears twice in an object with
            different values, or if it does not fit into memory.
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
    except _RefusedError:
        raise
    except _RepeatedKeyError as error:
        raise ValueError(f'{path}: {error}') from error
    except ValueError as error:
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


def _unite(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; json itself would keep the last of several values."""
    united = dict(pairs)
    if len(united) < len(pairs):
        first: dict[str, Any] = {}
        for key, value in pairs:
            if first.setdefault(key, value) != value:
                raise _RepeatedKeyError(
                    f'an object has {key!r:.60} twice, with different '
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


# ------------------------------------------------------------------ writing


def require_place(path: PathLike) -> None:
    """Refuse a place where no file can be written, before there is work.

    NotADirectoryError and PermissionError are about a folder on the way,
    ValueError about a folder, pipe or device in the place of the file.
    """
    _require_target(path)
    folder = _nearest(path)
    if not os.path.isdir(folder):
        raise _no_folder(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(
            f'{path} cannot be written: there is no permission to write in '
            f'{folder}; give another path.'
        )


def _nearest(path: PathLike) -> str:
    """What is there of the folders above a path."""
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder


def _no_folder(path: PathLike) -> NotADirectoryError:
    return NotADirectoryError(
        f'{path} cannot be written: {_nearest(path)} is no folder; give '
        'another path.'
    )


def _require_target(path: PathLike) -> None:
    """Refuse what is no file in the place of one."""
    if os.path.isdir(path):
        raise ValueError(
            f'{path} is a folder; give the path of the file to write.'
        )
    # /dev/stdout is a link into /proc, whatever it is led to.
    handle = os.path.islink(path) and os.readlink(path).startswith('/proc/')
    plain = not os.path.exists(path) or os.path.isfile(path)
    if handle or not plain:
        raise ValueError(
            f'{path} is a pipe or device; give the path of the file to write.'
        )


@contextlib.contextmanager
def replacing(path: PathLike, sync: bool = False) -> Iterator[Path]:
    """Write a file that is never seen half written.

    Yields where to write, in the same folder and with the same suffix; it
    becomes ``path`` unless there is an error. ``sync`` waits for the disk.
    ValueError if ``path`` is a folder, pipe or device.
    """
    path = Path(path)
    _require_target(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise _no_folder(path) from None
    name = os.fsencode(path.name)
    short = (
        hashlib.sha256(name).hexdigest() + path.suffix
        if _LONG_NAME < len(name)
        else path.name
    )
    # Threads may write the same file, such as pictures of one name.
    unfinished = path.with_name(
        f'.{os.getpid()}.{threading.get_ident()}.{short}'
    )
    try:
        yield unfinished
        if sync:
            put_in_place(unfinished, path)
        else:
            os.replace(unfinished, path)
    except OSError as error:
        if str(error.filename) == str(unfinished):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def put_in_place(temporary: PathLike, path: PathLike) -> None:
    """Give a finished file its name, on the disk and not only in memory."""
    _sync(temporary)
    os.replace(temporary, path)
    _sync(Path(path).parent)


def _sync(path: PathLike) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_folder(folder: PathLike) -> Iterator[Path]:
    """Make a folder that appears complete or not at all.

    Yields an empty one beside it, which becomes ``folder`` unless there is an
    error. What is there is replaced, so refuse before what must be kept.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f'.{folder.name}.', dir=folder.parent
    ) as scratch:
        # The folder around is private, this one follows the umask.
        parts = Path(scratch, 'new')
        parts.mkdir()
        yield parts
        old = Path(scratch, 'old')
        if folder.exists():
            folder.rename(old)
        try:
            parts.rename(folder)
        except BaseException:
            if old.exists():  # it would go with the scratch
                old.rename(folder)
            raise


def write_text(path: PathLike, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding='utf-8')


def write_json(
    path: PathLike, content: Any, indent: int | None = None
) -> None:
    """Write a json file, on one line without indent, whole or not at all."""
    separators = (',', ':') if indent is None else None
    with replacing(path) as unfinished, _text_file(unfinished) as file:
        # In parts: run lengths of large pictures are long.
        json.dump(content, file, indent=indent, separators=separators)
        file.write('\n')


def write_json_list(path: PathLike, parts: Iterable[list]) -> None:
    """Write one long list, a part at a time; whole or not at all."""
    with replacing(path) as unfinished, _text_file(unfinished) as file:
        separator = '['
        for part in parts:
            for item in part:
                file.write(separator + json.dumps(item))
                separator = ', '
        file.write(']' if separator != '[' else '[]')


def _text_file(path: Path) -> Any:
    return open(path, 'w', encoding='utf-8')
