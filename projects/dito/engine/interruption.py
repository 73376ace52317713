# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Signals that ask a training to end, and its orderly end.

Schedulers send SIGTERM before they take a machine away (Slurm, Kubernetes,
``docker stop``), jobs of Slurm ask for SIGUSR1 (``--signal``), and a person
sends SIGINT by Ctrl-C. The step is finished, a checkpoint written, and the
process exits with :data:`REQUEUE`, to be started again with ``--resume``.
"""

import atexit
import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from torch.utils.data import DataLoader

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: try again later
# Where tools/dist_train.sh looks whether to exit with REQUEUE; torchrun would
# take that code of a process for a failure.
MARK = 'DITO_REQUEUE_FILE'
# A second Ctrl-C ends at once; launchers send what the terminal sends again.
_AGAIN_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupted(SystemExit):
    """A training has ended early, on demand, and can be resumed."""

    def __init__(self) -> None:
        mark = os.environ.get(MARK)
        if mark:
            Path(mark).write_text(str(REQUEUE))
        super().__init__(0 if mark else REQUEUE)


@contextmanager
def end_to_requeue() -> Iterator[None]:
    """Let signals end the process with the code that requeues a job.

    Before the loop of a training begins, nothing is lost by that; within it
    :class:`StopSignals` takes over. Processes that are forked do at a signal
    what they would do without this. Interrupted is raised in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        for other, handler in before.items():
            signal.signal(other, handler)
        if os.getpid() != process:
            os.kill(os.getpid(), number)
            return
        name = signal.Signals(number).name
        os.write(
            2,
            f'{name}: the training ends before a step of it; start '
            'it again with --resume.\n'.encode(),
        )
        raise Interrupted

    try:
        for number in _SIGNALS:
            signal.signal(number, end)
        yield
    finally:
        if os.getpid() == process:
            for number, handler in before.items():
                signal.signal(number, handler)


class StopSignals:
    """Notes signals of the schedule instead of ending the process.

    After the loop, also one that an error has left, they do again what they
    did before.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._loop: CodeType | None = None
        self._when = 0.0
        self._before: dict[int, Any] = {}

    def install(self, loop: Any) -> None:
        """Begin to note signals; possible in the main thread alone."""
        self._loop = type(loop).run.__code__
        if threading.current_thread() is not threading.main_thread():
            return
        if not self._before:
            self.name = None
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Let signals do again what they did."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code is not self._loop:
            frame = frame.f_back
        if frame is None:
            self.restore()
            os.kill(os.getpid(), number)
        elif self.name is None:
            self.name, self._when = signal.Signals(number).name, time.time()
            os.write(
                2,
                f'{self.name}: finishing the step and writing a '
                'checkpoint ...\n'.encode(),
            )
        elif (
            number == signal.SIGINT
            and time.time() - self._when > _AGAIN_SECONDS
        ):
            raise KeyboardInterrupt


def shield_workers(loader: DataLoader) -> None:
    """Let the workers of a loader outlive signals sent to all processes.

    The training that they load for ends them; the loader is not yet iterated.
    """
    init = loader.worker_init_fn
    if getattr(init, 'func', None) is not _shielded:
        loader.worker_init_fn = partial(_shielded, init)


def _shielded(init: Callable[[int], None] | None, worker: int) -> None:
    """Set a worker up: only the end of its training ends it."""
    # Linux: it gets a signal of its own once the process that made it ends.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if init is not None:
        init(worker)


@atexit.register
def _end_workers() -> None:
    """End what would not listen to the terminate() of Python's own end."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
