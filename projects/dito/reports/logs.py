# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What trainings and tests leave in their work folders: logs, results, files.

MMEngine gives each run a folder named after its start. A training writes
``TIMESTAMP/vis_data/scalars.json``, a test ``TIMESTAMP/TIMESTAMP.json``.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

Row = dict[str, Any]
_SCALARS = Path('vis_data', 'scalars.json')


@dataclass(frozen=True)
class StageLog:
    """Logged values of one training."""

    name: str  #: Short name, such as 'rep'.
    title: str  #: For a person.
    rows: list[Row] = field(default_factory=list)  #: Logged, with 'step'.

    def curve(self, key: str) -> list[tuple[float, float]]:
        """Values of a key as (iteration, value)."""
        return [
            (float(row['step']), float(row[key]))
            for row in self.rows
            if key in row and 'step' in row
        ]

    def keys(self, prefix: str) -> list[str]:
        """Logged keys that begin so, sorted."""
        found = {key for row in self.rows for key in row}
        return sorted(key for key in found if key.startswith(prefix))


def newest_run(work_dir: Path) -> Path | None:
    """Folder of the last run inside a work folder, None without one."""
    runs = [p for p in work_dir.glob('2*_*') if p.is_dir()]
    return max(runs, key=lambda p: p.name, default=None)


def read_scalars(work_dir: Path) -> list[Row]:
    """Logged values of the last run, a dict for every logged iteration."""
    run = newest_run(work_dir)
    return [] if run is None else _read_rows(run / _SCALARS)


def read_stage_log(work_dir: Path, title: str) -> StageLog:
    """Read the training rows of all runs in a work folder.

    A resumed training is several runs; where two have logged an iteration the
    later one counts. FileNotFoundError if there are no scalars.
    """
    files = sorted(work_dir.glob(f'*/{_SCALARS}'))
    if not files:
        raise FileNotFoundError(
            f'{work_dir} holds no log (TIMESTAMP/{_SCALARS}); is it the work '
            'folder of a training?'
        )
    # Rows of an evaluation have no loss.
    rows = {
        int(row['step']): row
        for path in files
        for row in _read_rows(path)
        if 'loss' in row and 'step' in row
    }
    return StageLog(
        work_dir.name, title, [rows[step] for step in sorted(rows)]
    )


def _read_rows(path: Path) -> list[Row]:
    """Lines of a log; one that is still being written, or was cut, is none."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding='utf-8').splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return [row for row in rows if isinstance(row, dict)]


def measured_pace(work_dir: Path) -> float | None:
    """Mean seconds an iteration in the last log of a work folder."""
    rows = [r for r in read_scalars(work_dir) if 'loss' in r and 'time' in r]
    return mean(r['time'] for r in rows) if rows else None


def read_test_metrics(work_dir: Path) -> dict[str, float]:
    """Metrics of the last test run; FileNotFoundError without one."""
    run = newest_run(work_dir)
    if run is None or not (run / f'{run.name}.json').is_file():
        raise FileNotFoundError(
            f'{work_dir} holds no result of a test; run the step again.'
        )
    text = (run / f'{run.name}.json').read_text(encoding='utf-8')
    return json.loads(text.splitlines()[-1])


def stage_files(work_dir: Path) -> tuple[Path, Path]:
    """Dumped config and last checkpoint, which may have moved with its folder.

    Raises:
        FileNotFoundError: If one of them is missing.
        ValueError: If there are several configs.
    """
    configs = sorted(work_dir.glob('*.py'))
    if len(configs) > 1:
        raise ValueError(
            f'{work_dir} holds several configs '
            f'({", ".join(p.name for p in configs)}); keep one.'
        )
    pointer = work_dir / 'last_checkpoint'
    if not configs or not pointer.is_file():
        raise FileNotFoundError(
            f'{work_dir} is not the work folder of a finished training: it '
            f'has no {"last_checkpoint" if configs else "config"}.'
        )
    recorded = Path(pointer.read_text(encoding='utf-8').strip())
    for path in (work_dir / recorded.name, recorded):
        if path.is_file():
            return configs[0], path
    raise FileNotFoundError(
        f'The checkpoint {recorded} named in {pointer} does not exist.'
    )
