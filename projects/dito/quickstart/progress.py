# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Progress with the time left, on a terminal or in a log file."""

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

from dito.utils.printable import Console
from dito.utils.step_error import StepError

from .logs import last_step
from .stages import Stage

_POLL = 1.0
_PLAIN_EVERY = 30.0
_TAIL = 15


class Reporter:
    """Run stages one after the other and show how far they are.

    Args:
        stages (list[Stage]): Every step, for the time left.
        log_dir (Path): Folder for the output of the steps.
    """

    def __init__(self, stages: List[Stage], log_dir: Path) -> None:
        self.stages = stages
        self.log_dir = log_dir
        self.console = Console()
        self.pace = 1.0

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
        with open(log, 'w', encoding='utf-8') as output:
            process = subprocess.Popen(
                stage.command, stdout=output, stderr=subprocess.STDOUT)
            try:
                code = self._follow(stage, process, start)
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
        seconds = time.monotonic() - start
        self.pace = 0.5 * self.pace + 0.5 * seconds / stage.expected
        return seconds

    def _follow(self, stage: Stage, process: 'subprocess.Popen[bytes]',
                start: float) -> int:
        """Wait for a step's end, showing how far it is."""
        said = start
        with Progress(
                TextColumn('  {task.description}'), BarColumn(),
                TextColumn('{task.percentage:>3.0f} %'), TimeElapsedColumn(),
                TextColumn('{task.fields[left]}'),
                console=self.console, transient=True,
                disable=not self.console.is_terminal) as bar:
            task = bar.add_task(stage.name, total=1.0, left='')
            while (code := process.poll()) is None:
                elapsed = time.monotonic() - start
                share = self._share(stage, elapsed)
                left = self._left(stage, share, elapsed)
                text = f'about {left / 60:.0f} min left in all'
                bar.update(task, completed=share, left=text)
                plain = not self.console.is_terminal
                if plain and time.monotonic() - said > _PLAIN_EVERY:
                    said = time.monotonic()
                    self.console.print(
                        f'  {stage.name}: {100 * share:.0f} %, {text}')
                time.sleep(_POLL)
        return code

    def _share(self, stage: Stage, elapsed: float) -> float:
        """Finished share of a step, by its iterations or the clock."""
        if stage.iterations and stage.work_dir is not None:
            return min(last_step(stage.work_dir) / stage.iterations, 1.0)
        return min(elapsed / (stage.expected * self.pace), 0.99)

    def _left(self, stage: Stage, share: float, elapsed: float) -> float:
        """Seconds until everything is done."""
        after = self.stages[self.stages.index(stage) + 1:]
        rest = sum(s.expected for s in after) * self.pace
        expected = stage.expected * self.pace
        if share > 0.1:
            expected = elapsed / share
        return max(expected - elapsed, 0.0) + rest
