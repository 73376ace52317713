# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What ``benchmark.py`` measures, as tables, and how.

Little is imported here: the process that starts the others stays small.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

Row = dict[str, Any]
STAGES = ('backbone', 'stage 1', 'stage 2', 'stage 3', 'picture', 'loader')
# Side and number of the products that are timed as one, by kind of device.
_PRODUCT = dict(cpu=(1024, 2), cuda=(8192, 20))
_NO_MEMORY, NO_TIME = 'out of memory', 'left out: the budget was over'


@dataclass(frozen=True)
class Case:
    """What is measured in a process of its own.

    Args:
        stage (str): Of :data:`STAGES`.
        size (str): 'symbols', or of the ViT: 'small', 'base', ...
        side (int): Of the square images in pixels.
        batch (int): Images that pass together.
        swl (str): Of a backbone, as in :class:`Setting`.
        micro_batch (int): Of a step of stage 1; 0 for none.
        boxes (int): RoIs of an image in both detectors; 0 for those of the
            configs, 512 in training and 1,000 otherwise.
        repeat (int): Timed turns of both sides, after an untimed one.
    """

    stage: str
    size: str
    side: int
    batch: int = 1
    swl: str = 'none'
    micro_batch: int = 0
    boxes: int = 0
    repeat: int = 5

    @property
    def name(self) -> str:
        """Such as 'stage 1, small, 224 px, batch 8'."""
        more = '' if self.swl == 'none' else f', {self.swl} shift'
        more += f' in pieces of {self.micro_batch}' * bool(self.micro_batch)
        more += f', {self.boxes} boxes' * bool(self.boxes)
        return f'{self.stage}, {self.size}, {self.side} px, batch ' + (
            f'{self.batch}{more}'
        )


def _paper(size: str, pairs: int, boxes: int, images: int) -> Iterator[Case]:
    """Cases of a tower at the paper's sizes, by images of each stage."""
    yield Case('backbone', size, 1024, images)
    yield Case('stage 1', size, 224, pairs)
    yield Case('stage 2', size, 256, boxes)
    yield Case('stage 3', size, 1024, images)
    yield Case('picture', size, 1024)


# What is last is left out first where time is short.
PROFILES: dict[str, tuple[Case, ...]] = dict(
    gpu=(
        *_paper('large', 256, 32, 4),
        *_paper('base', 256, 32, 8),
        *_paper('small', 256, 32, 16),
        Case('loader', 'pairs', 224, 64),
        Case('loader', 'boxes', 1024, 4),
        Case('backbone', 'large', 1024, 4, 'batched'),
        Case('backbone', 'large', 1024, 4, 'sequential'),
        Case('stage 1', 'large', 224, 1024, micro_batch=256, repeat=2),
    ),
    cpu=(
        Case('backbone', 'small', 256),
        Case('stage 1', 'symbols', 64, 32),
        Case('stage 2', 'symbols', 128, 18, repeat=3),
        Case('stage 3', 'symbols', 192, 8, repeat=3),
        Case('picture', 'symbols', 192),
        Case('loader', 'pairs', 224, 16),
        Case('loader', 'boxes', 256, 4),
        Case('stage 1', 'small', 112, 4, repeat=3),
        Case('stage 3', 'small', 128, boxes=64, repeat=1),
        Case('picture', 'small', 256, boxes=64, repeat=2),
        Case('stage 1', 'symbols', 64, 128, micro_batch=32, repeat=3),
        Case('backbone', 'small', 256, 1, 'batched', repeat=3),
        Case('backbone', 'small', 256, 1, 'sequential', repeat=3),
        Case('backbone', 'base', 256, repeat=2),
    ),
    tiny=(
        Case('backbone', 'tiny', 64, repeat=1),
        Case('stage 1', 'symbols', 64, 2, repeat=1),
        Case('stage 3', 'symbols', 64, repeat=1),
        Case('loader', 'boxes', 64, repeat=1),
    ),
)


class Setup(NamedTuple):
    """Where and how cases run.

    Attributes:
        device (str): Such as 'cuda'.
        bf16 (bool): Under bfloat16 autocast; float32 otherwise.
        threads (int): Of the CPU; 0 leaves torch's choice.
    """

    device: str
    bf16: bool
    threads: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """Of products of matrices."""
        return torch.bfloat16 if self.bf16 else torch.float32

    def cast(self, dtype: torch.dtype | None = None) -> AbstractContextManager:
        """Autocast, or nothing."""
        if not self.bf16:
            return nullcontext()
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype or self.dtype)


@dataclass
class Side:
    """One of the two that take turns.

    Attributes:
        name (str): What it is.
        calls (dict[str, callable]): Work of each part.
        flops (dict[str, int]): Operations of a call of it.
    """

    name: str
    calls: dict[str, Callable[[], Any]]
    flops: dict[str, int] = field(default_factory=dict)


class Sides(NamedTuple):
    """Both sides of a case.

    Attributes:
        ours (Side): This package.
        peer (callable, optional): Makes the other side; what it raises
            leaves ours as it is.
        memory (callable, optional): MiB that ``dito memory`` says a training
            step takes over the loaded model.
    """

    ours: Side
    peer: Callable[[], Side] | None = None
    memory: Callable[[], float] | None = None


# ------------------------------------------------- measuring, in a process


def measure(case: Case, setup: Setup) -> list[Row]:
    """Measure a case.

    Args:
        case (Case): What.
        setup (Setup): Where and how.

    Returns:
        list[dict]: A row for each part: ``seconds`` of a call, images/s,
        ``tflop``, shares of the matrix rate, the peer and the ratio of its
        time to ours, and memory in MiB.
    """
    from benchmark_sides import sides_of

    if setup.threads:
        torch.set_num_threads(setup.threads)
    sides = sides_of(case, setup)
    peer, missing = None, None
    if sides.peer is not None:
        try:
            peer = sides.peer()
        except ImportError as error:
            missing = f'not measured: {error}'
    rows = []
    for part in sides.ours.calls:
        row = _times(part, sides.ours, peer, case, setup)
        row['peer'] = row['peer'] or missing
        if part == 'train':
            row.update(_memory(sides, peer, setup))
        rows.append(row)
    return rows


def _times(
    part: str, ours: Side, peer: Side | None, case: Case, setup: Setup
) -> Row:
    """Let both sides and the matrices take turns."""
    calls = dict(ours=ours.calls[part])
    flops = dict(ours=ours.flops.get(part, 0))
    if peer is not None and part in peer.calls:
        calls['peer'] = peer.calls[part]
        # Of the same size, if it has not counted its own.
        flops['peer'] = peer.flops.get(part, flops['ours'])
    if flops['ours']:
        calls['matrix'], flops['matrix'] = _products(setup)
    taken = _take_turns(calls, case.repeat, setup)
    row = dict(
        stage=case.stage,
        size=case.size,
        side=case.side,
        batch=case.batch,
        name=case.name,
        part=part,
        side_name=ours.name,
        status='done',
        seconds=statistics.median(taken['ours']),
        peer=None,
    )
    row['images_per_second'] = case.batch / row['seconds']
    if 'peer' in calls:
        row['peer'] = peer.name
        row['peer_seconds'] = statistics.median(taken['peer'])
        row['ratio'] = _median_of(taken['peer'], taken['ours'])
    if 'matrix' in calls:
        row['tflop'] = flops['ours'] / 1e12
        rate = flops['matrix'] / statistics.median(taken['matrix'])
        row['matrix_tflops'] = rate / 1e12
        for side, key in (('ours', 'share'), ('peer', 'peer_share')):
            if side in calls:
                row[key] = (
                    flops[side]
                    / flops['matrix']
                    * _median_of(taken['matrix'], taken[side])
                )
    return row


def _median_of(over: list[float], under: list[float]) -> float:
    """Median of the ratios of each turn."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def _take_turns(
    calls: dict[str, Callable[[], Any]], repeat: int, setup: Setup
) -> dict[str, list[float]]:
    """Seconds of each call in each turn, the first of which is not timed.

    Of the processor where one thread of it computes: other programs that it
    is shared with do not count then.
    """
    alone = setup.device == 'cpu' and setup.threads == 1
    clock = time.process_time if alone else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeat + 1):
        for name, call in calls.items():
            _wait(setup)
            start = clock()
            call()
            _wait(setup)
            if turn:
                taken[name].append(clock() - start)
    return taken


def _wait(setup: Setup) -> None:
    """Wait for a GPU; on a CPU there is nothing to wait for."""
    if setup.device.startswith('cuda'):
        torch.cuda.synchronize(setup.device)


def _products(setup: Setup) -> tuple[Callable[[], None], int]:
    """Products of large matrices in the type of the run; operations."""
    side, number = _PRODUCT[torch.device(setup.device).type]
    left, right = (
        torch.randn(side, side, device=setup.device).to(setup.dtype)
        for _ in range(2)
    )

    def multiply() -> None:
        for _ in range(number):
            left @ right

    return multiply, number * 2 * side**3


def _memory(sides: Sides, peer: Side | None, setup: Setup) -> Row:
    """Peaks of a step over the loaded model, and what `dito memory` says."""
    from dito.cli.memory import peak_of

    row: Row = dict(
        memory_mib=peak_of(sides.ours.calls['train'], setup.device)
    )
    if peer is not None:
        row['peer_memory_mib'] = peak_of(peer.calls['train'], setup.device)
    if sides.memory is not None:
        row['memory_said_mib'] = sides.memory()
        row['memory_ratio'] = row['memory_mib'] / row['memory_said_mib']
    return row


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of memory; on a CPU it has no type."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or 'not enough memory' in text
    )


def _serve(setup: Setup, pipe: Any) -> None:
    """Send the rows of each case that is asked for, or why there are none."""
    import gc

    while (case := pipe.recv()) is not None:
        rows, why = None, None
        try:
            rows = measure(case, setup)
        except Exception as error:
            why = f'failed: {type(error).__name__}: {error}'
            if _is_out_of_memory(error):
                why = _NO_MEMORY
        gc.collect()
        if setup.device.startswith('cuda'):
            torch.cuda.empty_cache()
        pipe.send((rows, why and ' '.join(why.split())[:300]))


class Worker:
    """Measures cases in a process of its own, and in a new one if it ends.

    Args:
        setup (Setup): Where and how.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._process: Any = None
        self._pipe: Any = None

    def measure(self, case: Case, seconds: float) -> list[Row]:
        """Measure a case.

        Args:
            case (Case): What.
            seconds (float): After which the process is ended.

        Returns:
            list[dict]: As of :func:`measure`; one row with the ``status``
            where that did not end well.
        """
        if self._process is None:
            self._start()
        rows, status = None, NO_TIME
        try:
            self._pipe.send(case)
            if self._pipe.poll(seconds):
                rows, status = self._pipe.recv()
            else:
                self.close(gently=False)
        except (EOFError, OSError):
            code = self.close()
            # As the system ends what takes too much.
            status = _NO_MEMORY if code == -9 else f'failed: exit code {code}'
        return rows if rows is not None else [empty_row(case, status)]

    def _start(self) -> None:
        context = multiprocessing.get_context('spawn')
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self.setup, theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    def close(self, gently: bool = True) -> int | None:
        """End the process; its exit code, None if there was none."""
        process, self._process = self._process, None
        if process is None:
            return None
        with suppress(OSError):  # one that has ended does not listen
            self._pipe.send(None)
        self._pipe.close()
        # One that has ended by itself keeps its code.
        process.join(5 if gently else 0)
        process.kill()
        process.join()
        return process.exitcode


def empty_row(case: Case, status: str) -> Row:
    """Row of a case without figures."""
    return dict(
        stage=case.stage,
        size=case.size,
        side=case.side,
        batch=case.batch,
        name=case.name,
        part='',
        status=status,
    )
