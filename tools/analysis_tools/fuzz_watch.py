# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Watch what a reader of an input does beyond its folder, for ``fuzz.py``.

Python reports programs that are started, connections and files that
are opened or changed (``sys.addaudithook``); what libraries in C write is
found by listing the surroundings afterwards.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Outcomes that this module finds.
CODE, OUTSIDE = 'code', 'outside'
_STARTS = (
    'subprocess.Popen',
    'os.system',
    'os.exec',
    'os.posix_spawn',
    'os.fork',
    'os.forkpty',
    'os.startfile',
    'pty.spawn',
)
_CONNECTS = (
    'socket.connect',
    'socket.bind',
    'socket.getaddrinfo',
    'urllib.Request',
    'ftplib.connect',
)
# Which of their arguments are paths that they change.
_CHANGES = {
    **dict.fromkeys(
        (
            'os.remove',
            'os.mkdir',
            'os.rmdir',
            'os.chmod',
            'os.utime',
            'shutil.rmtree',
        ),
        slice(1),
    ),
    **dict.fromkeys(('os.rename', 'os.link', 'shutil.move'), slice(2)),
    'os.symlink': slice(1, 2),
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# What an input has no business to have read.
_PRIVATE = ('/etc/passwd', '/etc/shadow', '/proc/self/environ')


class _Watch:
    """What happened since :func:`watched` began."""

    folder: str | None = None  # None: nothing is watched
    allowed: tuple[str, ...] = ()
    surroundings = ''
    reads = False
    found: list[tuple[str, str]]


_now = _Watch()
_installed: list[bool] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    """Note an event of the interpreter; must never raise."""
    if _now.folder is None:
        return
    if event in _STARTS:
        _now.found.append((CODE, f'{event} {args[:2]!r:.100}'))
    elif event in _CONNECTS:
        _now.found.append((OUTSIDE, f'{event} {args[1:]!r:.100}'))
    elif event == 'open':
        _note_file(args[0], bool((args[2] or 0) & _WRITES), event)
    elif event in _CHANGES and not _by_descriptor(args):
        for path in args[_CHANGES[event]]:
            _note_file(path, True, event)


def _by_descriptor(args: tuple[Any, ...]) -> bool:
    """Whether a path is relative to an open folder, as shutil removes."""
    return (
        isinstance(args[-1], int)
        and args[-1] >= 0
        and (isinstance(args[0], (str, bytes)) and not os.path.isabs(args[0]))
    )


def _note_file(path: Any, writes: bool, event: str) -> None:
    """Note a file that is none of the input's."""
    if isinstance(path, int):  # of a file that is open
        return
    try:
        name = os.path.join(os.path.realpath(os.fsdecode(path)), '')
    except (TypeError, ValueError):
        return
    if name.startswith(_now.allowed):
        return
    # The marks of tests, and files of the interpreter, which it only reads.
    name = name[:-1]
    near = name.startswith(_now.surroundings) or name in _PRIVATE
    if name != os.devnull and (writes or (near and _now.reads)):
        _now.found.append((OUTSIDE, f'{event} {name:.150}'))


@contextlib.contextmanager
def watched(
    folder: Path, surroundings: Path, reads: bool
) -> Iterator[list[tuple[str, str]]]:
    """Watch until the end of the block.

    Args:
        folder (Path): Where everything is allowed.
        surroundings (Path): Folder around it, listed before and after.
        reads (bool): Whether reading there, and of private files, counts.

    Yields:
        list[tuple[str, str]]: Outcome and detail of each finding, complete
        after the block.
    """
    if not _installed:
        sys.addaudithook(_hook)  # stays to the end of the process
        _installed.append(True)
    before = _listed(surroundings, folder)
    _now.surroundings, _now.reads = os.path.join(surroundings, ''), reads
    # Asked for here: the hook must not wait for a lock of tempfile's.
    _now.allowed = tuple(
        os.path.join(os.path.realpath(path), '')
        for path in (folder, tempfile.gettempdir())
    )
    _now.found, _now.folder = [], str(folder)
    try:
        yield _now.found
    finally:
        _now.folder = None
    _now.found += [
        (OUTSIDE, f'{path} was made or changed')
        for path in sorted(_listed(surroundings, folder) - before)
    ]


def _listed(top: Path, but: Path) -> set:
    """Files around a folder, with their sizes and times."""
    found = set()
    for root, folders, names in os.walk(top):
        folders[:] = [
            f for f in folders if Path(root, f) != but and f != '__pycache__'
        ]
        for name in (*folders, *names):
            status = os.lstat(os.path.join(root, name))
            found.add(
                (
                    os.path.join(root, name),
                    status.st_size,
                    0 if name in folders else status.st_mtime_ns,
                )
            )
    return {f'{path} ({size} bytes, {when})' for path, size, when in found}
