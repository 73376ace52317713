# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Train and evaluate what the rows of tables need, each thing once."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from mmengine.config import Config

from dito.quickstart.logs import newest_run, read_test_metrics
from dito.quickstart.progress import Reporter
from dito.quickstart.stages import Stage
from dito.quickstart.time_left import Cost
from dito.utils.printable import Console

from .results import Store, measured_pace
from .schedule import run_config
from .spec import Run, Table
from .tables import RUNS

_STARTUP = 20.0
#: Where `make quickstart` leaves its logs, for the first estimates.
_QUICKSTART = Path('work_dirs/quickstart')


@dataclass(frozen=True)
class Settings:
    """How tables are made.

    Args:
        work_dir (Path): Folder of runs and tables.
        data (str): 'symbols' or 'lvis'.
        seeds (int): Number of seeds, from 0.
        factor (float): Of the schedules' lengths, for both stages.
        own_pretraining (bool): Whether every seed has a pretraining of its
            own; otherwise that of seed 0 serves all.
        gpus (int): Processes of a run; 1 runs without a launcher.
        options (dict): More config settings for every training.
    """

    work_dir: Path
    data: str = 'symbols'
    seeds: int = 3
    factor: float = 1.0
    own_pretraining: bool = False
    gpus: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A step: a pretraining, a training, or an evaluation.

    Args:
        run (str): Name of its folder.
        seed (int): Its seed.
        what (str): 'train', 'detection' or 'regions'.
        kind (str): 'pretraining' or 'training', for estimates.
        config (str): Config that it is made from.
        start (tuple, optional): Run and seed whose checkpoint it starts
            from; None for the config's.
        start_anew (tuple[str]): Modules the start may lack.
        trained (bool): False evaluates the start.
    """

    run: str
    seed: int
    what: str
    kind: str
    config: str
    start: Optional[Tuple[str, int]] = None
    start_anew: Tuple[str, ...] = ()
    trained: bool = True

    @property
    def name(self) -> str:
        """Name of its log."""
        return f'{self.run}-seed{self.seed}-{self.what}'


class Planner:
    """Which jobs tables need, and how long they take.

    Args:
        settings (Settings): How tables are made.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.work_dir / 'runs')

    def jobs(self, tables: Sequence[Table]) -> List[Job]:
        """All jobs, each once, what another starts from first.

        Seeds come last: the first seed of every row is done before the
        second of any.

        Raises:
            ValueError: If a row has no config for the data set.
        """
        found: Dict[Job, None] = {}
        for seed in range(self.settings.seeds):
            for table in tables:
                for row in table.rows:
                    for job in self._jobs(row.run, seed, table.evaluation):
                        found[job] = None
        return list(found)

    def shared(self, name: str) -> str:
        """First run that is the same training on this data set."""
        data = self.settings.data

        def identity(run: Run) -> Tuple[Any, ...]:
            return (run.configs.get(data), (run.pretraining or {}).get(data),
                    run.trained, run.start_anew)

        return next(other for other, run in RUNS.items()
                    if identity(run) == identity(RUNS[name]))

    def seeds_of(self, run: str) -> Tuple[int, ...]:
        """Seeds of a run; what is not trained has one."""
        return tuple(range(self.settings.seeds if RUNS[run].trained else 1))

    def _jobs(self, name: str, seed: int, evaluation: str) -> List[Job]:
        name = self.shared(name)
        run, jobs = RUNS[name], []
        if seed not in self.seeds_of(name):
            return []
        start = None
        if run.pretraining:
            config = self._config(name, run.pretraining)
            start = (f'pretraining-{Path(config).stem}',
                     seed if self.settings.own_pretraining else 0)
            jobs.append(Job(*start, 'train', 'pretraining', config))
        common = dict(
            kind='training',
            config=self._config(name, run.configs),
            start=start,
            start_anew=run.start_anew,
            trained=run.trained)
        return [*jobs, Job(name, seed, 'train', **common),
                Job(name, seed, evaluation, **common)]

    def _config(self, name: str, configs: Mapping[str, str]) -> str:
        if self.settings.data not in configs:
            raise ValueError(f'The run {name!r} has no config for the data '
                             f'set {self.settings.data!r}; choose other '
                             '--rows.')
        return configs[self.settings.data]

    def done(self, job: Job) -> bool:
        """Whether its result is there."""
        return self.store.read(job.run, job.seed, job.what) is not None

    def checkpoint(self, job: Job) -> Optional[str]:
        """What a job starts from, as a path; None for the config's."""
        if job.start is None:
            return None
        train = self.store.read(*job.start, 'train') or {}
        return train.get('checkpoint') or str(
            self.store.folder(*job.start) / 'not_trained_yet.pth')

    def make_config(self, job: Job) -> Config:
        """Config of the training that a job belongs to."""
        return run_config(job.config, self.settings.factor, job.seed,
                          self.checkpoint(job), job.start_anew,
                          dict(self.settings.options))

    def estimate(self, job: Job) -> Optional[float]:
        """Seconds a job takes, from what was measured; None if nothing was.

        Trainings: the pace of their own log, else the mean of all finished
        ones of the kind, else that of the last quickstart; evaluations
        likewise.
        """
        on_symbols = self.settings.data == 'symbols'
        if job.what != 'train':
            seconds = self.store.seconds('training', job.what)
            # Given boxes take less than detection.
            return seconds or (_quickstart_evaluation() if on_symbols
                               else None)
        if not job.trained:
            return 0.0
        pace = measured_pace(self.store.folder(job.run, job.seed))
        pace = pace or self.store.seconds(job.kind, 'seconds_per_iter')
        if pace is None and on_symbols:
            stage = 'rep' if job.kind == 'pretraining' else 'dito'
            pace = measured_pace(_QUICKSTART / stage)
        if pace is None:
            return None
        return _STARTUP + pace * self.make_config(job).train_cfg.max_iters


def _quickstart_evaluation() -> Optional[float]:
    """Seconds of the last quickstart's evaluation, None without one."""
    path = _QUICKSTART / 'metrics.json'
    if not path.is_file():
        return None
    figures = json.loads(path.read_text(encoding='utf-8'))
    return figures.get('stage_seconds', {}).get('evaluation')


def run_tables(tables: Sequence[Table], settings: Settings,
               budget_hours: Optional[float] = None) -> List[Job]:
    """Make what tables need and is not there yet.

    Args:
        tables (Sequence[Table]): The tables.
        settings (Settings): How they are made.
        budget_hours (float, optional): No job is begun that would, as far as
            is known, end after so many hours.

    Returns:
        list[Job]: What was left undone for the budget.

    Raises:
        StepError: If a step fails; the end of its output is shown.
        ValueError: If a folder was begun with another config.
    """
    planner, console = Planner(settings), Console()
    jobs = planner.jobs(tables)
    for job in [j for j in jobs if j.what == 'train']:
        planner.store.check(job.run, job.seed, planner.make_config(job))
    todo = [job for job in jobs if not planner.done(job)]
    # What a step runs is known once what it starts from is there.
    stages = [Stage(job.name, _title(job), '', [],
                    Cost(_expected(planner, job))) for job in todo]
    reporter = Reporter(stages, settings.work_dir)
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    for number, job in enumerate(todo):
        spent = time.monotonic() - begin
        expected = planner.estimate(job) or 0.0
        if budget_hours is not None and (
                spent + expected > 3600 * budget_hours):
            console.print(f'The budget of {budget_hours:g} hours is spent; '
                          f'{len(todo) - number} steps are left. The same '
                          'command goes on from here.')
            return todo[number:]
        if job.what == 'train' and not job.trained:
            planner.store.write(job.run, job.seed, 'train', dict(
                kind=job.kind, trained=False,
                checkpoint=str(planner.make_config(job).load_from)))
            continue
        stages[number] = _stage(planner, job)
        _keep(planner, job, reporter.run(stages[number]))
    return []


def _keep(planner: Planner, job: Job, seconds: float) -> None:
    """Write the result of a step that has ended well."""
    store, folder = planner.store, planner.store.folder(job.run, job.seed)
    if job.what == 'train':
        iters = planner.make_config(job).train_cfg.max_iters
        store.write(job.run, job.seed, 'train', dict(
            kind=job.kind, trained=True, iters=iters,
            checkpoint=str((folder / f'iter_{iters}.pth').resolve()),
            seconds=round(seconds, 1),
            seconds_per_iter=measured_pace(folder)))
        return
    metrics = read_test_metrics(folder / job.what)
    store.write(job.run, job.seed, job.what, dict(
        run=job.run, seed=job.seed, config=job.config,
        factor=planner.settings.factor, seconds=round(seconds, 1),
        metrics=metrics))


def _title(job: Job) -> str:
    verb = dict(train='Train', detection='Evaluate',
                regions='Classify given boxes with')[job.what]
    return f'{verb} {job.run}, seed {job.seed}'


def _expected(planner: Planner, job: Job) -> float:
    """Seconds for the display of the time left; a minute if unknown."""
    return planner.estimate(job) or 60.0


def _stage(planner: Planner, job: Job) -> Stage:
    """The command of a job."""
    cfg = planner.make_config(job)
    folder = planner.store.folder(job.run, job.seed)
    path = planner.store.prepare(job.run, job.seed, cfg)
    expected = _expected(planner, job)
    if job.what == 'train':
        resume = ['--resume'] if (folder / 'last_checkpoint').is_file(
        ) else []
        return _command(planner, job, 'train.py', expected, [
            str(path), '--work-dir', str(folder), *resume
        ])
    train = planner.store.read(job.run, job.seed, 'train') or {}
    script = 'test.py' if job.what == 'detection' else (
        'analysis_tools/region_accuracy.py')
    return _command(planner, job, script, expected, [
        str(path), str(train['checkpoint']), '--work-dir',
        str(folder / job.what)
    ])


def _command(planner: Planner, job: Job, script: str, expected: float,
             arguments: List[str]) -> Stage:
    """A tool's call, by several processes where asked for."""
    gpus = planner.settings.gpus
    if gpus == 1:
        return Stage(job.name, _title(job), script, arguments,
                     Cost(expected))
    return LaunchedStage(job.name, _title(job), script,
                         [*arguments, '--launcher', 'pytorch'],
                         Cost(expected), gpus)


@dataclass(frozen=True)
class LaunchedStage(Stage):
    """A step that runs in several processes on this machine.

    Args:
        gpus (int): Number of processes.
    """

    gpus: int = 1

    @property
    def command(self) -> List[str]:
        """What is run."""
        python, *rest = super().command
        return [python, '-m', 'torch.distributed.run',
                '--standalone', f'--nproc_per_node={self.gpus}', *rest]


def half_trained(planner: Planner, job: Job) -> bool:
    """Whether a training was begun and not finished."""
    folder = planner.store.folder(job.run, job.seed)
    return job.what == 'train' and not planner.done(
        job) and newest_run(folder) is not None
