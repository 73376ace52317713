# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Progress with the time left, on a terminal or in a log file."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import List

from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from dito.utils.errors import StepError
from dito.utils.printable import Console

from .stages import Stage
from .time_left import TimeLeft

_POLL = 1.0
_PLAIN_EVERY = 30.0
_TAIL = 15
# How far a step is, in the words of MMEngine's log and of make_symbols.py.
_UNITS = re.compile(rb'(?:Iter\((?:train|test)\)|drawn) +\[ *(\d+)/(\d+)\]')
_END = 65536


def logged_share(log: Path) -> float:
    """Finished share of a step by the end of its log; 0 if it says nothing.

    Args:
        log (Path): What the step has written so far.

    Returns:
        float: Within [0, 1].
    """
    with open(log, 'rb') as file:
        file.seek(max(os.path.getsize(log) - _END, 0))
        units = _UNITS.findall(file.read())
    if not units or not int(units[-1][1]):
        return 0.0
    return min(int(units[-1][0]) / int(units[-1][1]), 1.0)


def in_words(seconds: float) -> str:
    """The time left, no finer than it is known."""
    if seconds < 60:
        return 'less than a minute left in all'
    return f'about {seconds / 60:.0f} min left in all'


class Reporter:
    """Run stages one after the other and show how far they are.

    Args:
        stages (list[Stage]): Every step, for the time left.
        log_dir (Path): Folder for the output of the steps.
        after (float): Cost of what follows the last step.
    """

    def __init__(self, stages: List[Stage], log_dir: Path,
                 after: float = 0.0) -> None:
        self.stages = stages
        self.log_dir = log_dir
        self.after = after
        self.console = Console()
        self.time_left = TimeLeft()

    def run(self, stage: Stage) -> float:
        """Run one step.

        Args:
            stage (Stage): The step.

        Returns:
            float: Seconds it took.

        Raises:
            StepError: If its command fails; the end of its output is
                shown.
        """
        start = time.monotonic()
        log = self.log_dir / f'{stage.name}.log'
        self.console.print(f'[bold]{stage.title}[/bold]  (log: {log})')
        self.time_left.begin(start, stage.cost)
        with open(log, 'w', encoding='utf-8') as output:
            process = subprocess.Popen(
                stage.command, stdout=output, stderr=subprocess.STDOUT)
            try:
                code = self._follow(stage, process, log)
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if code:
            lines = log.read_text(encoding='utf-8', errors='replace')
            tail = '\n'.join(lines.splitlines()[-_TAIL:])
            print(tail, file=sys.stderr)
            raise StepError(
                f'the step "{stage.title}" ended with exit code {code}; its '
                f'whole output is in {log}.')
        now = time.monotonic()
        self.time_left.end(now)
        return now - start

    def _follow(self, stage: Stage, process: 'subprocess.Popen[bytes]',
                log: Path) -> int:
        """Wait for a step's end, showing how far it is."""
        said = time.monotonic()
        later = self.after + sum(
            s.cost.total for s in self.stages[self.stages.index(stage) + 1:])
        with Progress(
                TextColumn('  {task.description}'), BarColumn(),
                TextColumn('{task.percentage:>3.0f} %'), TimeElapsedColumn(),
                TextColumn('{task.fields[left]}'),
                console=self.console, transient=True,
                disable=not self.console.is_terminal) as bar:
            task = bar.add_task(stage.name, total=1.0, left='')
            while (code := process.poll()) is None:
                now, share = time.monotonic(), logged_share(log)
                text = in_words(self.time_left.left(now, share, later))
                bar.update(task, completed=share, left=text)
                plain = not self.console.is_terminal
                if plain and now - said > _PLAIN_EVERY:
                    said = now
                    self.console.print(
                        f'  {stage.name}: {100 * share:.0f} %, {text}')
                time.sleep(_POLL)
        return code
