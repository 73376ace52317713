# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What a training has logged, and its files."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Tuple


@dataclass(frozen=True)
class StageLog:
    """Logged values of one training.

    Attributes:
        name (str): Short name, such as 'rep'.
        title (str): For a person.
        rows (list[dict]): A dict for every logged iteration, with 'step'.
    """

    name: str
    title: str
    rows: List[Dict[str, Any]] = field(default_factory=list)

    def curve(self, key: str) -> List[Tuple[float, float]]:
        """Values of a key as (iteration, value)."""
        return [(float(row['step']), float(row[key])) for row in self.rows
                if key in row and 'step' in row]

    def keys(self, prefix: str) -> List[str]:
        """Logged keys that begin so, sorted."""
        return sorted({k for row in self.rows for k in row
                       if k.startswith(prefix)})


def read_stage_log(work_dir: Path, title: str) -> StageLog:
    """Read the scalars of all runs in a work folder, oldest first.

    A resumed training is several runs; where two have logged an iteration
    the later one counts.

    Args:
        work_dir (Path): MMEngine's work folder of a training.
        title (str): Name of the stage for a person.

    Returns:
        StageLog: Training rows only, in the order of iterations.

    Raises:
        FileNotFoundError: If there are no scalars.
    """
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(
            f'{work_dir} holds no log (TIMESTAMP/vis_data/scalars.json); is '
            'it the work folder of a training?')
    rows: Dict[int, Dict[str, Any]] = {}
    for path in files:
        for line in path.read_text(encoding='utf-8').splitlines():
            row = _parse(line)
            # Rows of an evaluation have no loss.
            if 'loss' in row and 'step' in row:
                rows[int(row['step'])] = row
    return StageLog(work_dir.name, title,
                    [rows[step] for step in sorted(rows)])


def _parse(line: str) -> Dict[str, Any]:
    """Parse one line; that of a killed run may be half written."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return row if isinstance(row, dict) else {}


def stage_files(work_dir: Path) -> Tuple[Path, Path]:
    """Config and last checkpoint of a training.

    Args:
        work_dir (Path): MMEngine's work folder.

    Returns:
        tuple[Path, Path]: The dumped config and the checkpoint; one that was
        moved with its folder is found there.

    Raises:
        FileNotFoundError: If one of them is missing.
        ValueError: If there are several configs.
    """
    configs = sorted(work_dir.glob('*.py'))
    if len(configs) > 1:
        raise ValueError(f'{work_dir} holds several configs '
                         f'({", ".join(p.name for p in configs)}); keep one.')
    pointer = work_dir / 'last_checkpoint'
    if not configs or not pointer.is_file():
        raise FileNotFoundError(
            f'{work_dir} is not the work folder of a finished training: it '
            f'has no {"last_checkpoint" if configs else "config"}.')
    recorded = Path(pointer.read_text(encoding='utf-8').strip())
    for path in (work_dir / recorded.name, recorded):
        if path.is_file():
            return configs[0], path
    raise FileNotFoundError(f'The checkpoint {recorded} named in {pointer} '
                            'does not exist.')
