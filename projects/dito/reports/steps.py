# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Commands run one after the other, with the time that is left."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dito.utils.errors import StepError
from dito.utils.printable import Console

_POLL = 1.0
_PLAIN_EVERY = 30.0
_TAIL = 15
# How far a step is, in the words of MMEngine's log and of make-symbols.
_UNITS = re.compile(rb'(?:Iter\((?:train|test)\)|drawn) +\[ *(\d+)/(\d+)\]')
_END = 65536


@dataclass(frozen=True)
class Cost:
    """What a step takes on two idle cores, in seconds.

    Other machines take another time, but nearly the same multiple of it in
    every step.
    """

    total: float
    startup: float = 0.0  #: Until its first unit of progress begins.
    tail: float = 0.0  #: From the end of its last unit.

    def done(self, share: float) -> float:
        """Work done at a share of the units; 0 before the first is done."""
        if not share:
            return 0.0
        return self.startup + share * (self.total - self.startup - self.tail)


@dataclass(frozen=True)
class Stage:
    """One step, a command that a user could type."""

    name: str  #: Its log is ``NAME.log``.
    title: str  #: What it does, for a person.
    tool: str  #: Of ``dito TOOL``.
    arguments: list[str]
    cost: Cost  #: For the time left.
    gpus: int = 1  #: Processes; one runs without a launcher.

    @property
    def command(self) -> list[str]:
        """What is run."""
        dito = ['-m', 'dito', self.tool, *self.arguments]
        if self.gpus == 1:
            return [sys.executable, *dito]
        launcher = ['-m', 'torch.distributed.run', '--standalone']
        launcher.append(f'--nproc_per_node={self.gpus}')
        options = ['--launcher', 'pytorch']
        return [sys.executable, *launcher, *dito, *options]


class TimeLeft:
    """Seconds that are left, from the pace of what was done.

    The pace is seconds here for a second of :class:`Cost`. It is one number
    for all steps: a machine that draws slowly trains slowly too, so that the
    first step already says how long the last will take. An observation counts
    half after ``half_life`` seconds; the assumed pace of 1 at the start counts
    for ``prior`` of them.
    """

    def __init__(self, half_life: float = 60.0, prior: float = 4.0) -> None:
        self.half_life = half_life
        self._seconds = self._work = prior
        self._cost = Cost(0.0)
        self._time = self._done = self._gap = 0.0

    @property
    def pace(self) -> float:
        """Seconds here for a second of cost."""
        return self._seconds / self._work

    def begin(self, now: float, cost: Cost) -> None:
        """Note that a step of a cost begins, by a clock in seconds."""
        self._cost, self._time, self._done = cost, now, 0.0
        self._gap = cost.startup or cost.total

    def end(self, now: float) -> None:
        """Note that the step has ended."""
        self._note(now, self._cost.total)

    def left(self, now: float, share: float, later: float) -> float:
        """Estimate the seconds until everything is done.

        ``share`` of the step's units is done; ``later`` costs follow it.
        """
        self._note(now, self._cost.done(share))
        since = now - self._time
        # If the next unit is late, the pace is at least what it would be if
        # the unit ended now.
        late = (self._seconds + since) / (self._work + self._gap)
        pace = max(self.pace, late)
        here = pace * (self._cost.total - self._done)
        here -= min(since, pace * self._gap)
        return max(here, 0.0) + pace * later

    def _note(self, now: float, done: float) -> None:
        """Take progress into the pace, if there is any."""
        seconds, work = now - self._time, done - self._done
        if work <= 0:
            return
        weight = 0.5 ** (seconds / self.half_life)
        self._seconds = weight * self._seconds + seconds
        self._work = weight * self._work + work
        self._time, self._done = now, done
        # Units are alike; after the last one the tail is due.
        self._gap = min(work, self._cost.total - done)


def logged_share(log: Path) -> float:
    """Finished share of a step by the end of its log; 0 if it says nothing."""
    with open(log, 'rb') as file:
        file.seek(max(os.path.getsize(log) - _END, 0))
        units = _UNITS.findall(file.read())
    done, total = map(int, units[-1]) if units else (0, 0)
    return min(done / total, 1.0) if total else 0.0


def in_words(seconds: float) -> str:
    """The time left, no finer than it is known."""
    if seconds < 60:
        return 'less than a minute left in all'
    return f'about {seconds / 60:.0f} min left in all'


class Reporter:
    """Run stages one after the other and show how far they are.

    ``after`` is the cost of what follows the last step.
    """

    def __init__(
        self, stages: list[Stage], log_dir: Path, after: float = 0.0
    ) -> None:
        self.stages = stages
        self.log_dir = log_dir
        self.after = after
        self.console = Console()
        self.time_left = TimeLeft()

    def run(self, stage: Stage) -> float:
        """Run one step and return the seconds it took, or a StepError."""
        start = time.monotonic()
        log = self.log_dir / f'{stage.name}.log'
        self.console.print(f'[bold]{stage.title}[/bold]  (log: {log})')
        self.time_left.begin(start, stage.cost)
        with open(log, 'w', encoding='utf-8') as output:
            process = subprocess.Popen(
                stage.command, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                code = self._follow(stage, process, log)
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if code:
            lines = log.read_text(encoding='utf-8', errors='replace')
            print(*lines.splitlines()[-_TAIL:], sep='\n', file=sys.stderr)
            raise StepError(
                f'the step "{stage.title}" ended with exit code {code}; its '
                f'whole output is in {log}.'
            )
        now = time.monotonic()
        self.time_left.end(now)
        return now - start

    def _follow(
        self, stage: Stage, process: 'subprocess.Popen[bytes]', log: Path
    ) -> int:
        """Wait for a step's end, showing how far it is."""
        said = time.monotonic()
        later = self.stages[self.stages.index(stage) + 1 :]
        cost = self.after + sum(s.cost.total for s in later)
        plain = not self.console.is_terminal
        with Progress(
            TextColumn('  {task.description}'),
            BarColumn(),
            TextColumn('{task.percentage:>3.0f} %'),
            TimeElapsedColumn(),
            TextColumn('{task.fields[left]}'),
            console=self.console,
            transient=True,
            disable=plain,
        ) as bar:
            task = bar.add_task(stage.name, total=1.0, left='')
            while (code := process.poll()) is None:
                now, share = time.monotonic(), logged_share(log)
                text = in_words(self.time_left.left(now, share, cost))
                bar.update(task, completed=share, left=text)
                if plain and now - said > _PLAIN_EVERY:
                    said = now
                    self.console.print(
                        f'  {stage.name}: {100 * share:.0f} %, {text}'
                    )
                time.sleep(_POLL)
        return code
