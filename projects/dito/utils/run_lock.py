# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""One training at a time in a work folder.

Two trainings in one folder would overwrite each other's checkpoints. The file
``.running`` is locked by the one that runs there and says which it is. The
lock is the system's and ends with the process, however that ends. File
systems of several machines need not share locks, so the file's time is
renewed as long as the run lives, and is watched for a while where the run is
of another machine.
"""

import atexit
import errno
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Dict, Optional, Union

RUNNING = '.running'
BEAT_SECONDS = 10.0


class _Held:
    """A folder that this process trains in."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self.handle, self.pid = path, handle, os.getpid()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            os.utime(self.handle)

    def release(self) -> None:
        """Give the folder back; in a forked process do nothing."""
        if self.pid == os.getpid():
            self._end.set()
            self._thread.join()
            self.path.unlink(missing_ok=True)
            os.close(self.handle)


_HELD: Dict[str, _Held] = {}


def claim(folder: Union[str, Path]) -> None:
    """Take a work folder for a training of this process.

    Args:
        folder (str | Path): Made if need be; taken until :func:`release` or
            the end of the process.

    Raises:
        ValueError: If another process trains there.
    """
    path = _lock_file(folder)
    if str(path) in _HELD:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _lock(path)
    try:
        holder = _read(handle)
        if holder and holder.get('host') != socket.gethostname():
            _watch(path, handle, holder)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(dict(
            host=socket.gethostname(), pid=os.getpid(),
            since=time.strftime('%Y-%m-%d %H:%M:%S'))).encode(), 0)
    except BaseException:
        os.close(handle)
        raise
    _HELD[str(path)] = _Held(path, handle)


def release(folder: Union[str, Path]) -> None:
    """Give a folder back; nothing happens if it was not taken."""
    held = _HELD.pop(str(_lock_file(folder)), None)
    if held is not None:
        held.release()


def _lock_file(folder: Union[str, Path]) -> Path:
    # Unlike Path.resolve() it leaves a loop of links to what opens it.
    return Path(os.path.realpath(folder)) / RUNNING


@atexit.register
def _release_all() -> None:
    for held in _HELD.values():
        held.release()


def _lock(path: Path) -> int:
    """Open and lock the file, which another run may just have removed."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = _read(handle) or {}
                os.close(handle)
                raise ValueError(_refusal(path, holder)) from error
            # A file system without locks: the beat alone tells.
        try:
            if os.fstat(handle).st_ino == os.stat(path).st_ino:
                return handle
        except FileNotFoundError:
            pass  # removed since: lock the next one
        os.close(handle)


def _read(handle: int) -> Optional[Dict[str, Any]]:
    """Read who has written the file; None if it says nothing."""
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return None
    return holder if isinstance(holder, dict) else None


def _watch(path: Path, handle: int, holder: Dict[str, Any]) -> None:
    """Refuse if the run of another machine shows that it lives."""
    before = os.fstat(handle).st_mtime_ns
    end = time.monotonic() + 2.5 * BEAT_SECONDS
    while time.monotonic() < end:
        time.sleep(BEAT_SECONDS / 20)
        if os.fstat(handle).st_mtime_ns != before:
            raise ValueError(_refusal(path, holder))


def _refusal(path: Path, holder: Dict[str, Any]) -> str:
    return (f'{path.parent} is in use: process {holder.get("pid", "?")} on '
            f'{holder.get("host", "?")} trains there since '
            f'{holder.get("since", "?")}; name another folder (--work-dir), '
            'or end that run first.')
