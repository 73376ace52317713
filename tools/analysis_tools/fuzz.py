# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Feed damaged inputs to what reads files, and count what comes of them.

An input is made from its kind, the seed and its number alone, damaged, and
given to the public functions that a user's file meets. What may come of it:

* right: it is read, as if it were sound
* counted: a sample or object is left out, and a count says so
* refused: one sentence (ValueError, TypeError, a missing file)

What must not: a crash (another exception, or the end of the process), a hang,
code that an input holds (or a program that it starts), something lost without
a count, a file outside that is written, or read where the input names none.
Each is listed with the number to repeat it by; the exit code is 1 then.

Examples:
    python tools/analysis_tools/fuzz.py --number 10000 --json fuzz.json
    python tools/analysis_tools/fuzz.py --kind tars --first 17 --number 1
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import fuzz_inputs as inputs  # noqa: E402
from fuzz_readers import KINDS, NAMES_FILES  # noqa: E402
from fuzz_watch import watched  # noqa: E402

import dito  # noqa: E402

# What is imported later writes caches, which would count as an input's work.
dito.register()

GOOD = ('right', 'counted', 'refused')
BAD = ('crash', 'hang', 'code', 'lost', 'outside')
# Folders of the tool's own around the one that inputs are in.
LEVELS = 2
# Above what a process has at its start, so that bombs end as MemoryError.
_MEMORY = 6 << 30


def attempt(kind: str, seed: int, number: int) -> tuple[str, str]:
    """Try one input in the current folder.

    Args:
        kind (str): One of KINDS.
        seed (int): Seed of all inputs.
        number (int): Number of this one.

    Returns:
        tuple[str, str]: Outcome of the first reader, or the worst of the
        others if that is one that must not be; its detail.
    """
    make = KINDS[kind][0]
    rng = np.random.default_rng((seed, *kind.encode(), number))
    here = Path.cwd().resolve()
    with tempfile.TemporaryDirectory(dir=here) as name:
        folder = Path(name)
        with watched(
            folder, here.parents[LEVELS - 1], kind not in NAMES_FILES
        ) as beyond:
            found = [_judge(step) for step in make(folder, rng)]
    if os.path.exists(inputs.CANARY):
        os.remove(inputs.CANARY)
        return 'code', 'an input was run'
    bad = beyond + [outcome for outcome in found if outcome[0] in BAD]
    return bad[0] if bad else found[0]


def _judge(step: Callable[[], str]) -> tuple[str, str]:
    """Run one reader and name what came of it."""
    from dito.cli.errors import is_user_error
    from dito.datasets.image_text.bad_samples import BadSample

    try:
        outcome, _, detail = step().partition(': ')
        return outcome, detail
    except BadSample as error:
        return 'counted', str(error)
    except Exception as error:
        if is_user_error(error) and str(error).strip():
            return 'refused', str(error)
        place = traceback.extract_tb(error.__traceback__)
        own = [f for f in place if '/dito/' in f.filename] or place
        return 'crash', (
            f'{type(error).__name__}: {error!s:.200} at '
            f'{Path(own[-1].filename).name}:{own[-1].lineno}'
        )


def _work(pipe: Any, folder: str) -> None:
    """Try what comes through a pipe, in a process of its own."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.makedirs(os.path.join(folder, 'temporary'))
    tempfile.tempdir = os.path.join(folder, 'temporary')
    folder = os.path.join(folder, *'ab')
    os.makedirs(folder)
    os.chdir(folder)
    for name, text in inputs.BAIT.items():
        Path(name).write_text(text)
        os.chmod(name, 0o755)
    # As a user's own folder is in the paths of python and of programs.
    sys.path.insert(0, folder)
    os.environ['PATH'] = f'{folder}:{os.environ["PATH"]}'
    import torch

    import dito  # noqa: F401

    torch.set_num_threads(1)
    used = 4096 * int(Path('/proc/self/statm').read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY,) * 2)
    pipe.send(('ready', ''))
    while True:
        pipe.send(attempt(*pipe.recv()))


class _Worker:
    """A process that is started again after a hang or a crash."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._process: Any = None

    def __call__(self, task: tuple[str, int, int]) -> tuple[str, str]:
        """Return what came of an input."""
        if self._process is None:
            self._start()
        try:
            self._pipe.send(task)
            if self._answers():
                return self._pipe.recv()
            outcome = 'hang', f'no answer in {self.limit:g} s'
        except (EOFError, OSError):
            self._process.join()
            outcome = 'crash', f'exit code {self._process.exitcode}'
        self.stop()
        return outcome

    def _answers(self) -> bool:
        """Wait for an answer, or until the time is up.

        Time of the processor counts, so that a busy machine is no hang; of
        a process that waits for something, ten times as much of the clock.
        """
        start, used = time.time(), self._seconds()
        step = min(1, self.limit / 10)
        while not self._pipe.poll(step):
            if (
                max(self._seconds() - used, (time.time() - start) / 10)
                > self.limit
            ):
                return False
        return True

    def _seconds(self) -> float:
        """Time that the processor has spent on the process."""
        try:
            text = Path(f'/proc/{self._process.pid}/stat').read_text()
        except OSError:  # it has ended, or this is no Linux
            return 0.0
        user, system = text.rpartition(')')[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf('SC_CLK_TCK')

    def _start(self) -> None:
        context = multiprocessing.get_context('spawn')
        self._folder = tempfile.mkdtemp(prefix='fuzz-')
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_work, args=(other, self._folder), daemon=True
        )
        self._process.start()
        other.close()
        self._pipe.recv()  # imports may take longer than an input

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
            shutil.rmtree(self._folder, ignore_errors=True)


def run(
    kinds: Sequence[str],
    number: int,
    seed: int = 0,
    first: int = 0,
    limit: float = 60,
    jobs: int = 1,
) -> dict[str, Any]:
    """Try inputs, spread over kinds by their shares.

    Args:
        kinds (list[str]): Of KINDS.
        number (int): Of all inputs.
        seed (int): Of all inputs.
        first (int): Number of the first of each kind.
        limit (float): Seconds for one input.
        jobs (int): Processes at a time; nothing else depends on it.

    Returns:
        dict: ``seed``, ``number``, ``seconds``, ``kinds`` (number by outcome
        and kind) and ``failures`` (kind, number, outcome, detail of each).
    """
    total = sum(KINDS[kind][1] for kind in kinds)
    counts: dict[str, Counter] = {kind: Counter() for kind in kinds}
    failures: list[dict[str, Any]] = []
    tasks = [
        (kind, seed, first + i)
        for kind in kinds
        for i in range(max(1, round(number * KINDS[kind][1] / total)))
    ]
    start, workers = time.time(), [_Worker(limit) for _ in range(jobs)]
    idle: Queue[_Worker] = Queue()
    for worker in workers:
        idle.put(worker)

    def ask(task: tuple[str, int, int]) -> tuple[str, str]:
        worker = idle.get()
        try:
            return worker(task)
        finally:
            idle.put(worker)

    try:
        with ThreadPoolExecutor(jobs) as pool:
            for (kind, _, i), (outcome, detail) in zip(
                tasks, pool.map(ask, tasks), strict=True
            ):
                counts[kind][outcome] += 1
                if outcome in BAD:
                    failures.append(
                        dict(
                            kind=kind, number=i, outcome=outcome, detail=detail
                        )
                    )
                    print(f'{kind} {i}: {outcome}: {detail}', flush=True)
    finally:
        for worker in workers:
            worker.stop()
    return dict(
        seed=seed,
        number=sum(c.total() for c in counts.values()),
        seconds=round(time.time() - start),
        kinds={
            kind: {name: c[name] for name in (*GOOD, *BAD)}
            for kind, c in counts.items()
        },
        failures=failures,
    )


def parse_args(argv: Any = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        '--kind',
        nargs='+',
        choices=KINDS,
        default=list(KINDS),
        help='kinds of inputs (default: all)',
    )
    add('--number', type=int, default=1000, help='number of inputs')
    add('--seed', type=int, default=0, help='seed of all of them')
    add('--first', type=int, default=0, help='number of the first of a kind')
    add(
        '--limit',
        type=float,
        default=60,
        help='seconds of processor time for one input',
    )
    add('--workers', type=int, default=1, help='processes at a time')
    add('--json', help='write the counts and failures to this file too')
    return parser.parse_args(argv)


def main(argv: Any = None) -> int:
    """Try inputs and print a table of what came of them."""
    args = parse_args(argv)
    found = run(
        args.kind, args.number, args.seed, args.first, args.limit, args.workers
    )
    names = (*GOOD, *BAD)
    print('| kind | inputs | ' + ' | '.join(names) + ' |')
    print('|---' * (2 + len(names)) + '|')
    for kind, counts in found['kinds'].items():
        values = [sum(counts.values()), *counts.values()]
        print(f'| {kind} | ' + ' | '.join(f'{v:,}' for v in values) + ' |')
    print(
        f'{found["number"]} inputs, seed {args.seed}: '
        f'{len(found["failures"])} failures, {found["seconds"]} s'
    )
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))
    return 1 if found['failures'] else 0


if __name__ == '__main__':
    sys.exit(main())
