# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The steps of the quickstart, each one a command a user could type."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional

from mmengine.config import Config

from dito.utils.configs import TIMES, config_root, scale_schedule

from .time_left import Cost

#: Where the configs of `symbols` look for the data set.
DATA_ROOT = Path('data/symbols')
SHIPPED_TOWER = Path('symbols/assets/clip_symbols.safetensors')
#: Result of rep_symbols_long.py, from which stage 2 goes on by default.
SHIPPED_REP = Path('symbols/assets/rep_symbols.safetensors')
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


@dataclass(frozen=True)
class Stage:
    """One step.

    Args:
        name (str): Short name; its log is ``NAME.log``.
        title (str): What it does, for a person.
        script (str): Tool to run, relative to the tools folder.
        arguments (list[str]): Its arguments.
        cost (Cost): What it takes on two idle cores, for the time left.
    """

    name: str
    title: str
    script: str
    arguments: List[str]
    cost: Cost

    @property
    def command(self) -> List[str]:
        """What is run."""
        tool = config_root().parent / 'tools' / self.script
        return [sys.executable, str(tool), *self.arguments]


def schedule_options(config: str, iterations: int) -> List[str]:
    """Options that make a training last another number of iterations.

    The learning rate's schedule is stretched with it. There is no evaluation
    at the end: that is a step of its own.

    Args:
        config (str): Name of the config, relative to the folder of configs.
        iterations (int): What it shall last.

    Returns:
        list[str]: Values of ``--cfg-options``.
    """
    cfg = Config.fromfile(config_root() / config)
    scale_schedule(cfg, iterations / cfg.train_cfg.max_iters)
    return [
        f'train_cfg.max_iters={cfg.train_cfg.max_iters}',
        f'train_cfg.val_begin={cfg.train_cfg.val_begin}',
        *(f'param_scheduler.{number}.{key}={part[key]}'
          for number, part in enumerate(cfg.param_scheduler)
          for key in TIMES if key in part),
    ]


@dataclass(frozen=True)
class Plan:
    """Where the quickstart reads and writes, and how long it trains.

    Args:
        work_dir (Path): Folder for checkpoints, logs and the report.
        rep_iters (int): Iterations of stage 2.
        det_iters (int): Iterations of stage 3.
        options (dict[str, list[str]]): Further config options by stage.
        from_tower (bool): Whether stage 2 starts with the tower alone
            instead of the shipped result of a long stage 2.
    """

    work_dir: Path
    rep_iters: int
    det_iters: int
    options: Dict[str, List[str]] = field(default_factory=dict)
    from_tower: bool = False

    @property
    def rep_checkpoint(self) -> Path:
        """Result of stage 2."""
        return self.work_dir / 'rep' / f'iter_{self.rep_iters}.pth'

    @property
    def det_checkpoint(self) -> Path:
        """Result of stage 3."""
        return self.work_dir / 'dito' / f'iter_{self.det_iters}.pth'

    def stages(self) -> List[Stage]:
        """All steps, in order."""
        return [
            self._data(),
            self._zero_shot(),
            self._rep(),
            self._naming(),
            self._finetune(),
            self._evaluation(),
        ]

    def _data(self) -> Stage:
        return Stage(
            'data', 'Draw the data set',
            'dataset_converters/make_symbols.py',
            ['--out', str(DATA_ROOT)], Cost(40, startup=3, tail=1))

    def _zero_shot(self) -> Stage:
        return Stage(
            'zero_shot', 'Classify held-out symbols with the shipped tower',
            'test.py', [
                str(config_root() / 'symbols/clip_symbols.py'),
                str(config_root() / SHIPPED_TOWER),
                *self._common('zero_shot', ['default_hooks.logger.interval=1'
                                            ]),
            ], Cost(17, _STARTUP))

    def _rep(self) -> Stage:
        title = 'Stage 2: pretrain the heads on images and captions'
        options: List[str] = []
        if not self.from_tower:
            title = 'Stage 2: go on with the shipped heads'
            options = [f'load_from={config_root() / SHIPPED_REP}',
                       f'optim_wrapper.optimizer.lr={_FURTHER_RATE}']
        return self._training('rep', title, 'symbols/rep_symbols.py',
                              _REP_PACE, self.rep_iters, options)

    def _naming(self) -> Stage:
        return Stage(
            'naming', 'Name annotated boxes with the box head of stage 2',
            'analysis_tools/region_accuracy.py', [
                str(config_root() / 'symbols/dito_symbols.py'),
                str(self.rep_checkpoint), '--score', 'det',
                *self._common('naming', ['model.teacher=None',
                                         'default_hooks.logger.interval=2']),
            ], Cost(20, _STARTUP, tail=3))

    def _finetune(self) -> Stage:
        start = self.rep_checkpoint
        return self._training(
            'dito', 'Stage 3: train on boxes of the base classes',
            'symbols/dito_symbols.py', _DET_PACE, self.det_iters,
            [f'load_from={start}', f'model.teacher.checkpoint={start}'])

    def _training(self, name: str, title: str, config: str, pace: float,
                  iterations: int, options: List[str]) -> Stage:
        options = [
            *options, *schedule_options(config, iterations),
            f'default_hooks.checkpoint.interval={iterations}',
            f'default_hooks.logger.interval={max(iterations // _LINES, 1)}',
        ]
        return Stage(
            name, title, 'train.py',
            [str(config_root() / config), *self._common(name, options)],
            Cost(_STARTUP + pace * iterations, _STARTUP))

    def _evaluation(self) -> Stage:
        return Stage(
            'evaluation', 'Evaluate on base and novel classes',
            'test.py', [
                str(config_root() / 'symbols/dito_symbols.py'),
                str(self.det_checkpoint),
                *self._common('evaluation',
                              ['default_hooks.logger.interval=2']),
            ], Cost(63, _STARTUP, tail=8))

    def _common(self, name: str,
                options: Optional[List[str]] = None) -> List[str]:
        options = [*(options or []), *self.options.get(name, [])]
        arguments = ['--work-dir', str(self.work_dir / name)]
        return [*arguments, *(['--cfg-options', *options] if options else [])]
