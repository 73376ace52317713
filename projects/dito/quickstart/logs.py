# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Read what a running or finished MMEngine work folder has logged."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional


def newest_run(work_dir: Path) -> Optional[Path]:
    """Folder of the last run inside a work folder, None without one."""
    runs = [p for p in work_dir.glob('2*_*') if p.is_dir()]
    return max(runs, key=lambda p: p.name, default=None)


def read_scalars(work_dir: Path) -> List[Dict[str, Any]]:
    """Logged values of the last run, a dict for every logged iteration.

    A line that is still being written is left out.
    """
    run = newest_run(work_dir)
    path = None if run is None else run / 'vis_data' / 'scalars.json'
    if path is None or not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read_test_metrics(work_dir: Path) -> Dict[str, float]:
    """Metrics that the last test run has written.

    Raises:
        FileNotFoundError: If the folder holds no finished test.
    """
    run = newest_run(work_dir)
    path = None if run is None else run / f'{run.name}.json'
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f'{work_dir} holds no result of a test; run the step again.')
    return json.loads(path.read_text(encoding='utf-8').splitlines()[-1])
