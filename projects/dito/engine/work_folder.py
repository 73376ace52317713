# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The work folder of a training: what it goes on from, and who runs in it.

A checkpoint is a zip archive with a checksum for every tensor. torch does not
compare them when it loads one, so that a file with a flipped bit or with a
page of zeros gives wrong weights without a word; here they are compared.

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
import logging
import os
import re
import socket
import threading
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, get_rank
from mmengine.logging import print_log

from dito.utils.files import PathLike, replacing

LAST = 'last_checkpoint'
RUNNING = '.running'
BEAT_SECONDS = 10.0
_NUMBERED = re.compile(r'(.+_)(\d+)\.pth')
_PREFIXES = ('iter_', 'epoch_')
_MAX_PATH = 4096


def fault_of(path: PathLike) -> str | None:
    """Say what is wrong with a checkpoint file, after reading all of it."""
    path = Path(path)
    if not path.is_file():
        return 'there is no such file'
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        return f'its {size} bytes are cut off, or it is no checkpoint'
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        return f'{type(error).__name__}: {error}'
    return (
        None
        if part is None
        else (f'its part {part} differs from what was written')
    )


def candidates(work_dir: PathLike) -> list[Path]:
    """List the checkpoints of a run, the newest first; it may be missing.

    The first is the one that ``last_checkpoint`` names. The others have
    smaller numbers: larger ones are of an earlier run in the same folder.

    A folder that was moved or copied has its own checkpoints, whatever
    ``last_checkpoint`` says of the place it was written at; only where it has
    none are they looked for there (``CheckpointHook.out_dir``).
    """
    work_dir = Path(work_dir)
    last = _last_checkpoint(work_dir)
    folder = work_dir if last is None else last.parent
    named = last and _NUMBERED.fullmatch(last.name)
    found = []
    for path in folder.glob('*.pth') if folder.is_dir() else ():
        match = _NUMBERED.fullmatch(path.name)
        if match is None:
            continue
        older = (
            match[1] == named[1] and int(match[2]) < int(named[2])
            if named
            else match[1] in _PREFIXES
        )
        if older:
            found.append((int(match[2]), path))
    newest_first = [path for _, path in sorted(found, reverse=True)]
    return newest_first if last is None else [last, *newest_first]


def find_resumable(work_dir: PathLike) -> Path | None:
    """Find the newest whole checkpoint; warn loudly if it is not the last.

    None if there is no checkpoint; ValueError if all are damaged.
    """
    faults = {}
    for path in candidates(work_dir):
        fault = fault_of(path)
        if fault is None:
            if faults:
                damaged = '; '.join(f'{p} ({f})' for p, f in faults.items())
                print_log(
                    f'DAMAGED CHECKPOINT: {damaged}. The run goes on from '
                    f'the one before, {path}, and trains what came after it '
                    'again.',
                    logger='current',
                    level=logging.ERROR,
                )
            return path
        faults[path] = fault
    if not faults:
        return None
    damaged = '; '.join(f'{p} ({f})' for p, f in faults.items())
    raise ValueError(
        f'There is no whole checkpoint in {work_dir} to resume from: '
        f'{damaged}. Restore one from a copy, or start anew without '
        '--resume.'
    )


def resolve_resume(runner: Any) -> None:
    """Set what an automatic resume of a runner goes on from.

    One process reads and checks the files, all use the same one; ValueError as
    of :func:`find_resumable`, on every rank.
    """
    if runner._resume is not True or runner._load_from is not None:
        return
    folder = Path(runner.work_dir)
    if '://' in _pointer(folder) and not _has_numbered(folder):
        return  # in an object store, which writes and checks whole files
    answer: list[str | None] = [None, None]
    if get_rank() == 0:
        try:
            found = find_resumable(runner.work_dir)
            answer = [None if found is None else str(found), None]
        except ValueError as error:
            answer = [None, str(error)]
    broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise ValueError(answer[1])
    runner._load_from = answer[0]
    # Without any, MMEngine would look for one after its own rules.
    runner._resume = answer[0] is not None


def write_last(work_dir: PathLike, checkpoint: str) -> None:
    """Name the last checkpoint in ``last_checkpoint``, whole or not at all."""
    if (Path(work_dir) / LAST).is_dir():
        print_log(
            f'{Path(work_dir) / LAST} is a folder, and so no file of that '
            'name says which checkpoint is the last one; --resume takes that '
            'of the greatest number. Move the folder away.',
            logger='current',
            level=logging.WARNING,
        )
        return
    with replacing(Path(work_dir) / LAST, sync=True) as unfinished:
        unfinished.write_text(checkpoint)


def _pointer(work_dir: Path) -> str:
    """Read ``last_checkpoint``, '' where it says nothing."""
    pointer = work_dir / LAST
    text = pointer.read_bytes()[:_MAX_PATH] if pointer.is_file() else b''
    lines = text.decode('utf-8', 'replace').split('\0')[0].splitlines()
    return lines[0].strip() if lines else ''


def _has_numbered(folder: Path) -> bool:
    return any(_NUMBERED.fullmatch(p.name) for p in folder.glob('*.pth'))


def _last_checkpoint(work_dir: Path) -> Path | None:
    """Find the last checkpoint; a moved or copied folder has its own."""
    text = _pointer(work_dir)
    if not text:
        return None
    path = Path(text)
    own = work_dir / path.name
    if os.path.isfile(own):
        return own
    if _has_numbered(work_dir) or not os.path.isfile(path):
        # What is damaged or of no run does not hide the folder's own.
        named = _NUMBERED.fullmatch(path.name)
        return own if named and named[1] in _PREFIXES else None
    return path


# ------------------------------------------------------------ one at a time


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


_HELD: dict[str, _Held] = {}


def claim(folder: str | Path) -> None:
    """Take a work folder for this process, until :func:`release` or its end.

    ValueError if another process trains there.
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
        os.pwrite(
            handle,
            json.dumps(
                dict(
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    since=time.strftime('%Y-%m-%d %H:%M:%S'),
                )
            ).encode(),
            0,
        )
    except BaseException:
        os.close(handle)
        raise
    _HELD[str(path)] = _Held(path, handle)


def release(folder: str | Path) -> None:
    """Give a folder back; nothing happens if it was not taken."""
    held = _HELD.pop(str(_lock_file(folder)), None)
    if held is not None:
        held.release()


def _lock_file(folder: str | Path) -> Path:
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


def _read(handle: int) -> dict[str, Any] | None:
    """Read who has written the file; None if it says nothing."""
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return None
    return holder if isinstance(holder, dict) else None


def _watch(path: Path, handle: int, holder: dict[str, Any]) -> None:
    """Refuse if the run of another machine shows that it lives."""
    before = os.fstat(handle).st_mtime_ns
    end = time.monotonic() + 2.5 * BEAT_SECONDS
    while time.monotonic() < end:
        time.sleep(BEAT_SECONDS / 20)
        if os.fstat(handle).st_mtime_ns != before:
            raise ValueError(_refusal(path, holder))


def _refusal(path: Path, holder: dict[str, Any]) -> str:
    return (
        f'{path.parent} is in use: process {holder.get("pid", "?")} on '
        f'{holder.get("host", "?")} trains there since '
        f'{holder.get("since", "?")}; name another folder (--work-dir), '
        'or end that run first.'
    )
