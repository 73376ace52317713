# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The quickstart: the whole chain on the embedded data set, and its report."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.table import Table

from dito.evaluation.report import print_table
from dito.utils.configs import TIMES, config_root, scale_schedule
from dito.utils.files import read_json, write_json

from .logs import read_test_metrics
from .steps import Cost, Reporter, Stage

#: Where the configs of `symbols` look for the data set.
DATA_ROOT = Path('data/symbols')
SHIPPED_TOWER = Path('symbols/assets/clip_symbols.safetensors')
#: Result of rep_symbols_long.py, from which stage 2 goes on by default.
SHIPPED_REP = Path('symbols/assets/rep_symbols.safetensors')
_REP, _DITO = 'symbols/rep_symbols.py', 'symbols/dito_symbols.py'
_LOGGED = 'default_hooks.logger.interval'
_MARKER = '.dito_quickstart'
# Going on, the heads need no large steps: a third of the rate of new ones.
_FURTHER_RATE = 3e-4
# Seconds on two idle cores: a process until its first batch; an iteration of
# stages 2 and 3.
_STARTUP = 10.0
_REP_PACE, _DET_PACE = 0.75, 1.68
#: The same for the report after all steps.
REPORT_COST = 7.0
# How often a training says how far it is.
_LINES = 50
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


def schedule_options(config: str, iterations: int) -> list[str]:
    """Values of ``--cfg-options`` for a training of so many iterations.

    The learning rate's schedule is stretched with it. There is no evaluation
    at the end: that is a step of its own.
    """
    cfg = Config.fromfile(config_root() / config)
    scale_schedule(cfg, iterations / cfg.train_cfg.max_iters)
    return [
        f'train_cfg.max_iters={cfg.train_cfg.max_iters}',
        f'train_cfg.val_begin={cfg.train_cfg.val_begin}',
        *(
            f'param_scheduler.{number}.{key}={part[key]}'
            for number, part in enumerate(cfg.param_scheduler)
            for key in TIMES
            if key in part
        ),
    ]


@dataclass(frozen=True)
class Plan:
    """Where the quickstart reads and writes, and how long it trains."""

    work_dir: Path  #: For checkpoints, logs and the report.
    rep_iters: int  #: Iterations of stage 2.
    det_iters: int  #: Iterations of stage 3.
    #: Whether stage 2 starts with the tower alone instead of the shipped
    #: result of a long stage 2.
    from_tower: bool = False

    def stages(self) -> list[Stage]:
        """All steps, in order."""
        detector = self.work_dir / 'dito' / f'iter_{self.det_iters}.pth'
        often = [f'{_LOGGED}=2']
        data = ['--out-dir', str(DATA_ROOT)]
        return [
            Stage(
                'data',
                'Draw the data set',
                'make-symbols',
                data,
                Cost(40, 3, 1),
            ),
            self._stage(
                'zero_shot',
                'Classify held-out symbols with the shipped tower',
                ['test', 'symbols/clip_symbols.py'],
                Cost(17, _STARTUP),
                [f'{_LOGGED}=1'],
                str(config_root() / SHIPPED_TOWER),
            ),
            self._rep(),
            self._stage(
                'naming',
                'Name annotated boxes with the box head of stage 2',
                ['region-accuracy', _DITO],
                Cost(20, _STARTUP, tail=3),
                ['model.teacher=None', *often],
                *(str(self._checkpoint), '--score', 'det'),
            ),
            self._finetune(),
            self._stage(
                'evaluation',
                'Evaluate on base and novel classes',
                ['test', _DITO],
                Cost(63, _STARTUP, tail=8),
                often,
                str(detector),
            ),
        ]

    @property
    def _checkpoint(self) -> Path:
        """Result of stage 2."""
        return self.work_dir / 'rep' / f'iter_{self.rep_iters}.pth'

    def _rep(self) -> Stage:
        title = 'Stage 2: pretrain the heads on images and captions'
        start: list[str] = []
        if not self.from_tower:
            title = 'Stage 2: go on with the shipped heads'
            start = [f'load_from={config_root() / SHIPPED_REP}']
            start.append(f'optim_wrapper.optimizer.lr={_FURTHER_RATE}')
        schedule = _REP_PACE, self.rep_iters
        return self._training('rep', title, _REP, *schedule, start)

    def _finetune(self) -> Stage:
        title = 'Stage 3: train on boxes of the base classes'
        keys = 'load_from', 'model.teacher.checkpoint'
        start = [f'{key}={self._checkpoint}' for key in keys]
        schedule = _DET_PACE, self.det_iters
        return self._training('dito', title, _DITO, *schedule, start)

    def _training(
        self,
        name: str,
        title: str,
        config: str,
        pace: float,
        iterations: int,
        start: list[str],
    ) -> Stage:
        """A training of so many iterations of so many seconds."""
        options = [
            *start,
            *schedule_options(config, iterations),
            f'default_hooks.checkpoint.interval={iterations}',
            f'{_LOGGED}={max(iterations // _LINES, 1)}',
        ]
        cost = Cost(_STARTUP + pace * iterations, _STARTUP)
        return self._stage(name, title, ['train', config], cost, options)

    def _stage(
        self,
        name: str,
        title: str,
        tool: list[str],
        cost: Cost,
        options: list[str],
        *arguments: str,
    ) -> Stage:
        """A tool with a config, in a work folder of its name."""
        command, config = tool
        given = [str(config_root() / config), *arguments]
        given += ['--work-dir', str(self.work_dir / name)]
        given += ['--cfg-options', *options]
        return Stage(name, title, command, given, cost)


def collect_metrics(work_dir: Path) -> dict[str, float]:
    """Gather the results of the tests in a quickstart folder, all in [0, 1].

    Raises:
        FileNotFoundError: If a test has not finished.
        KeyError: If a test lacks a metric.
    """
    folders = {folder for folder, _, _ in _METRICS.values()}
    tests = {name: read_test_metrics(work_dir / name) for name in folders}
    return {
        key: round(tests[folder][name] * factor, 5)
        for key, (folder, name, factor) in _METRICS.items()
    }


def prepare_folder(folder: Path) -> None:
    """Make an empty folder, dropping an earlier quickstart in it alone."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARKER).is_file():
            raise ValueError(
                f'{folder} is not empty and no earlier quickstart; give an '
                'empty or a new folder as --work-dir.'
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).touch()


def run_quickstart(plan: Plan, device: str = 'cpu') -> dict[str, Any]:
    """Run all steps, write metrics.json and the report, and show them.

    An earlier run in the work folder is replaced; the data set is drawn only
    where it is missing. Returns what metrics.json holds.

    Raises:
        FileNotFoundError: If the package lacks shipped weights.
        RuntimeError: If a step fails.
    """
    # The report needs the models; the command line should answer at once.
    from .report import quickstart_report

    for weights in (SHIPPED_TOWER, SHIPPED_REP):
        if not (config_root() / weights).is_file():
            raise FileNotFoundError(
                f'{config_root() / weights} is missing; it belongs to the '
                'package: clone or install it again.'
            )
    start = time.monotonic()
    prepare_folder(plan.work_dir)
    stages = plan.stages()
    if (DATA_ROOT / 'manifest.json').is_file():
        stages = [s for s in stages if s.name != 'data']
    reporter = Reporter(stages, plan.work_dir, after=REPORT_COST)
    times = {s.name: round(reporter.run(s), 1) for s in stages}
    metrics: dict[str, Any] = collect_metrics(plan.work_dir)
    metrics['stage_seconds'] = times
    metrics['commands'] = {s.name: s.command[1:] for s in stages}
    metrics['seconds'] = round(time.monotonic() - start, 1)
    path = plan.work_dir / 'metrics.json'
    write_json(path, metrics, indent=1)
    report = quickstart_report(plan.work_dir, DATA_ROOT, device=device)
    # With what the report has measured.
    metrics = read_json(path)
    metrics['seconds'] = round(time.monotonic() - start, 1)
    write_json(path, metrics, indent=1)
    show(metrics, report)
    return metrics


def show(metrics: dict[str, Any], report: Path) -> None:
    """Print the figures and where the report is."""
    from .report import HEADLINES

    table = Table(title='symbols')
    table.add_column('metric')
    table.add_column('value', justify='right')
    for key, label in HEADLINES.items():
        if key in metrics:
            table.add_row(label, f'{100 * metrics[key]:.1f} %')
    table.add_row('seconds', f'{metrics["seconds"]:.0f}')
    print_table(table)
    print(f'Report: {report}')
