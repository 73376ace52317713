# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Run every step of the quickstart and write its metrics and report."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Dict

from rich.table import Table

from dito.evaluation.result_table import print_table
from dito.utils.configs import config_root

from .logs import read_test_metrics
from .progress import Reporter
from .stages import (
    DATA_ROOT,
    REPORT_COST,
    SHIPPED_REP,
    SHIPPED_TOWER,
    Plan,
)

_MARKER = '.dito_quickstart'
#: Name in metrics.json -> (work folder, name in its test's results, factor
#: to a share of 1).
_METRICS = dict(
    rep_box_naming_novel=('naming', 'region/novel_top1', 0.01),
    novel_ap50=('evaluation', 'lvis/bbox_novel_AP50', 1.0),
    base_ap50=('evaluation', 'lvis/bbox_base_AP50', 1.0),
    novel_mask_ap=('evaluation', 'lvis/segm_novel_AP', 1.0),
    base_mask_ap=('evaluation', 'lvis/segm_base_AP', 1.0),
    box_ap=('evaluation', 'lvis/bbox_AP', 1.0),
    mask_ap=('evaluation', 'lvis/segm_AP', 1.0),
    zero_shot_top1=('zero_shot', 'zero_shot/all_top1', 0.01),
    zero_shot_novel_top1=('zero_shot', 'zero_shot/novel_top1', 0.01),
)


def collect_metrics(work_dir: Path) -> Dict[str, float]:
    """Gather the results of the tests in a quickstart folder.

    Args:
        work_dir (Path): Folder of the quickstart.

    Returns:
        dict[str, float]: AP, AP50 and accuracies, all in [0, 1].

    Raises:
        FileNotFoundError: If a test has not finished.
        KeyError: If a test lacks a metric.
    """
    tests = {
        name: read_test_metrics(work_dir / name)
        for name in {folder for folder, _, _ in _METRICS.values()}
    }
    return {
        key: round(tests[folder][name] * factor, 5)
        for key, (folder, name, factor) in _METRICS.items()
    }


def write_json(path: Path, values: Dict[str, Any]) -> None:
    """Write a json file as a whole or not at all."""
    temporary = path.with_suffix('.tmp')
    temporary.write_text(
        json.dumps(values, indent=1) + '\n', encoding='utf-8')
    os.replace(temporary, path)


def prepare_folder(folder: Path) -> None:
    """Make an empty folder, dropping an earlier quickstart in it.

    Args:
        folder (Path): The folder.

    Raises:
        ValueError: If it holds anything but a quickstart.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARKER).is_file():
            raise ValueError(
                f'{folder} is not empty and no earlier quickstart; give an '
                'empty or a new folder as --work-dir.')
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).touch()


def run_quickstart(plan: Plan, device: str = 'cpu') -> Dict[str, Any]:
    """Run all steps.

    Args:
        plan (Plan): Folders and lengths. An earlier run in its work folder
            is replaced; the data set is drawn only where it is missing.
        device (str): Where the report's pictures are computed.

    Returns:
        dict: What metrics.json holds.

    Raises:
        FileNotFoundError: If the package lacks shipped weights.
        RuntimeError: If a step fails.
    """
    # The report needs the models; the command line should answer at once.
    from dito.visualization import quickstart_report
    for weights in (SHIPPED_TOWER, SHIPPED_REP):
        if not (config_root() / weights).is_file():
            raise FileNotFoundError(
                f'{config_root() / weights} is missing; it belongs to the '
                'package: clone or install it again.')
    start = time.monotonic()
    prepare_folder(plan.work_dir)
    stages = plan.stages()
    if (DATA_ROOT / 'manifest.json').is_file():
        stages = [s for s in stages if s.name != 'data']
    reporter = Reporter(stages, plan.work_dir, after=REPORT_COST)
    times = {stage.name: reporter.run(stage) for stage in stages}
    metrics: Dict[str, Any] = collect_metrics(plan.work_dir)
    metrics['stage_seconds'] = {k: round(v, 1) for k, v in times.items()}
    metrics['commands'] = {s.name: s.command[1:] for s in stages}
    metrics['seconds'] = round(time.monotonic() - start, 1)
    write_json(plan.work_dir / 'metrics.json', metrics)
    report = quickstart_report(plan.work_dir, DATA_ROOT, device=device)
    # With what the report has measured.
    metrics = json.loads((plan.work_dir / 'metrics.json').read_text())
    metrics['seconds'] = round(time.monotonic() - start, 1)
    write_json(plan.work_dir / 'metrics.json', metrics)
    show(metrics, report)
    return metrics


def show(metrics: Dict[str, Any], report: Path) -> None:
    """Print the figures and where the report is."""
    from dito.visualization.report_tables import HEADLINES
    table = Table(title='symbols')
    table.add_column('metric')
    table.add_column('value', justify='right')
    for key, (label, _) in HEADLINES.items():
        if key in metrics:
            table.add_row(label, f'{100 * metrics[key]:.1f} %')
    table.add_row('seconds', f'{metrics["seconds"]:.0f}')
    print_table(table)
    print(f'Report: {report}')
