# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The work folder of a training: what it goes on from, and who runs in it.

A checkpoint is a zip archive with a checksum for every tensor, which torch
does not compare: a flipped bit gives wrong weights without a word. Here they
are compared.

Two trainings in one folder would overwrite each other's checkpoints, so the
file ``.running`` is locked by the one that runs there. The system's lock ends
with the process. File systems of several machines need not share locks, so the
file's time is renewed as long as the run lives, and is watched for a while
where the run is of another machine.
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, get_rank
from mmengine.logging import print_log
from mmengine.runner import FlexibleRunner

from dito.models.utils import unwrap_model
from dito.utils.files import PathLike, replacing

LAST = 'last_checkpoint'
RUNNING = '.running'
BEAT_SECONDS = 10.0
_NUMBERED = re.compile(r'(.+_)(\d+)\.pth')
_PREFIXES = ('iter_', 'epoch_')
_MAX_PATH = 4096
# Settings by which optimizers tell their states apart.
_SETTINGS = frozenset(('betas', 'momentum', 'alpha', 'rho', 'lr_decay'))
_WEIGHTS = (
    'it holds weights, not the state of a training; start from them '
    'with --cfg-options load_from={path}, or give --resume a '
    'checkpoint that a training wrote'
)


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
    found = on_first(find_resumable, runner.work_dir)
    runner._load_from = None if found is None else str(found)
    # Without any, MMEngine would look for one after its own rules.
    runner._resume = found is not None


def on_first(function: Callable[[Any], Any], folder: PathLike) -> Any:
    """What a function gives on the first process; all raise its ValueError."""
    answer: list[Any] = [None, None]
    if get_rank() == 0:
        try:
            answer[0] = function(folder)
        except ValueError as error:
            answer[1] = str(error)
    broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise ValueError(answer[1])
    return answer[0]


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


def check_training_state(runner: Any, checkpoint: dict[str, Any]) -> None:
    """Refuse to resume from what is no training of this model.

    MMEngine takes what it finds: a weight that is missing or of another shape
    stays random, and an optimizer that is not there starts anew, while the
    count of iterations goes on. ValueError if the checkpoint, not yet loaded,
    holds weights alone, or the state of another model or optimizer.
    """
    path = runner._load_from
    fault = _incomplete(checkpoint)
    # Strategies shard weights and optimizer, and compare them themselves.
    if fault is None and not isinstance(runner, FlexibleRunner):
        fault = _other_model(
            runner.model, checkpoint['state_dict']
        ) or _other_optimizer(
            runner.optim_wrapper, checkpoint.get('optimizer')
        )
    if fault is not None:
        raise ValueError(
            f'{path} cannot be resumed: {fault.format(path=path)}.'
        )
    schedulers = getattr(runner, 'param_schedulers', None)
    wanted = dict(optimizer=True, param_schedulers=bool(schedulers))
    for part in [k for k, v in wanted.items() if v and k not in checkpoint]:
        runner.logger.warning(
            f'{path} was saved without the state of the {part} '
            f'(save_{part.rstrip("s")}=False), which begins anew.'
        )


def _incomplete(checkpoint: dict[str, Any]) -> Any:
    """What a training has not written so."""
    meta = checkpoint.get('meta')
    if not isinstance(meta, Mapping) or not all(
        type(meta.get(key)) is int for key in ('epoch', 'iter')
    ):
        return _WEIGHTS
    if not isinstance(checkpoint.get('message_hub'), Mapping):
        return _WEIGHTS
    for key in ('state_dict', 'optimizer'):
        if not isinstance(checkpoint.get(key, {}), Mapping):
            return f'its {key} is a {type(checkpoint[key]).__name__}'
    return None if 'state_dict' in checkpoint else 'it has no weights'


def _other_model(model: Any, state: Mapping[str, Any]) -> Any:
    """Which trained weights are not in the file, or are others."""
    model = unwrap_model(model)
    state = {
        key.removeprefix('module.'): value
        for key, value in state.items()
        if isinstance(key, str)
    }
    faults = [
        f'{name} {tuple(value.shape)}'
        + (f', there {tuple(state[name].shape)}' if name in state else '')
        for name, value in model.named_parameters()
        if getattr(state.get(name), 'shape', None) != value.shape
    ]
    if not faults:
        return None
    more = f' and {len(faults) - 3} more' if len(faults) > 3 else ''
    return (
        f'it is of another model, {len(faults)} weights are not in it or '
        f'of another shape: {"; ".join(faults[:3])}{more}; resume with '
        'the config it was trained with, or start from its weights with '
        '--cfg-options load_from={path}'
    )


def _other_optimizer(wrapper: Any, state: Any) -> Any:
    """How the groups of parameters differ."""
    own = (
        _groups(wrapper.state_dict())
        if hasattr(wrapper, 'state_dict')
        else None
    )
    if not state or own is None or own == _groups(state):
        return None
    return (
        'its optimizer is another or has other groups of parameters; '
        'resume with the optim_wrapper it was trained with, or start from '
        'its weights with --cfg-options load_from={path}'
    )


def _groups(state: Mapping[str, Any]) -> list[Any]:
    """Sizes and kinds of the groups of one or several optimizers."""
    if 'param_groups' in state:
        return [
            (len(group['params']), _SETTINGS.intersection(group))
            for group in state['param_groups']
        ]
    return [
        (name, _groups(part))
        for name, part in state.items()
        if isinstance(part, Mapping) and 'param_groups' in part
    ]


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
