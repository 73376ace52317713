# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Train and evaluate what the rows of tables need, each thing once."""

import copy
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mmengine.config import Config

from dito.utils.configs import find_config, scale_schedule
from dito.utils.files import read_json, write_json, write_text
from dito.utils.printable import Console

from .ablation_tables import FULL_REP, RUNS, Run, Table
from .logs import measured_pace, newest_run, read_test_metrics
from .steps import Cost, Reporter, Stage


@lru_cache(maxsize=64)
def _read_config(name: str) -> Config:
    """Read a config once: many steps have the same."""
    return Config.fromfile(find_config(name))


def run_config(
    name: str,
    factor: float,
    seed: int,
    start: str | None = None,
    start_anew: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Config:
    """Make the config of one training.

    ``factor`` is as in :func:`scale_schedule`. ``start`` is the checkpoint
    that it starts from, which is also that of the teacher, if it has one; it
    may lack the modules ``start_anew``.
    """
    cfg = copy.deepcopy(_read_config(name))
    if options:
        cfg.merge_from_dict(dict(options))
    scale_schedule(cfg, factor)
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    if start is not None:
        cfg.load_from = start
        if cfg.model.get('teacher'):
            cfg.model.teacher.checkpoint = start
    for hook in cfg.get('custom_hooks') or ():
        if start_anew and hook['type'] == 'DITOLoadReportHook':
            anew = tuple(f'{module}.' for module in start_anew)
            hook['required'] = [
                k for k in hook['required'] if not f'{k}.'.startswith(anew)
            ]
            allowed = hook.get('allowed_missing', ())
            hook['allowed_missing'] = [*allowed, *start_anew]
    return cfg


@dataclass(frozen=True)
class Figure:
    """A figure over seeds."""

    mean: float
    spread: float | None  #: Standard deviation of the sample; None of one.
    seeds: int  #: How many.

    def text(self, factor: float) -> str:
        """Such as '12.3 ± 0.4 (3)', with the seeds; '12.3' of one."""
        if self.spread is None:
            return f'{factor * self.mean:.1f}'
        mean, spread = factor * self.mean, factor * self.spread
        return f'{mean:.1f} ± {spread:.1f} ({self.seeds})'


class Store:
    """Results of all runs of one data set and one schedule.

    ``ROOT/RUN/seedN.py`` is the config of a training, ``ROOT/RUN/seedN/``
    holds its logs and checkpoints, ``train.json`` once it is finished, and
    ``EVALUATION.json`` once it is evaluated.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, run: str, seed: int) -> Path:
        """Work folder of a training."""
        return self.root / run / f'seed{seed}'

    def read(self, run: str, seed: int, what: str) -> dict[str, Any] | None:
        """The result 'train', 'detection' or 'regions', if any.

        ValueError if its file is damaged.
        """
        return _read_result(self.folder(run, seed) / f'{what}.json')

    def write(
        self, run: str, seed: int, what: str, values: dict[str, Any]
    ) -> None:
        """Write a result as a whole or not at all."""
        path = self.folder(run, seed) / f'{what}.json'
        write_json(path, values, indent=1)

    def check(self, run: str, seed: int, cfg: Config) -> Path:
        """File of a training's config, which may not be there yet.

        ValueError if it was begun with another config.
        """
        # Beside the folder: mmengine writes a copy of its own into that.
        path = self.folder(run, seed).with_suffix('.py')
        if path.is_file():
            first, *_ = path.read_text(encoding='utf-8').split('\n', 1)
            if first != _mark(cfg):
                raise ValueError(
                    f'{path} was begun with another config or schedule, and '
                    'its figures would not compare; give another --work-dir, '
                    'or remove the file and its folder.'
                )
        return path

    def prepare(self, run: str, seed: int, cfg: Config) -> Path:
        """Write the config of a training unless it is there; see check."""
        path = self.check(run, seed, cfg)
        if not path.is_file():
            write_text(path, f'{_mark(cfg)}\n{cfg.pretty_text}')
        return path

    def figure(
        self, run: str, seeds: Sequence[int], what: str, metric: str
    ) -> Figure | None:
        """A figure over the finished ones of some seeds; None if none has it.

        A negative figure, such as the -1 of a class without objects, is none.
        """
        found = [(self.read(run, s, what) or {}).get('metrics') for s in seeds]
        values = [(metrics or {}).get(metric, -1) for metrics in found]
        values = [value for value in values if value >= 0]
        if not values:
            return None
        spread = stdev(values) if len(values) > 1 else None
        return Figure(mean(values), spread, len(values))

    def seconds(self, kind: str, key: str) -> float | None:
        """Mean ``key`` over all finished runs of a kind, if there are any."""
        values = []
        for path in sorted(self.root.glob('*/seed*/train.json')):
            found = _read_result(path)
            if found.get('kind') == kind:
                name = key
                if key != 'seconds_per_iter':
                    found = _read_result(path.with_name(f'{key}.json')) or {}
                    name = 'seconds'
                values.append(found.get(name))
        values = [v for v in values if v]
        return mean(values) if values else None


def _read_result(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError as error:
        raise ValueError(
            f'{path} is damaged ({error}); remove it, and this step is made '
            'again.'
        ) from error


def _mark(cfg: Config) -> str:
    """First line of a config's file, which tells configs apart."""
    text = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    return f'# sha256 {hashlib.sha256(text.encode()).hexdigest()}'


_STARTUP = 20.0
#: Where `make quickstart` leaves its logs, for the first estimates.
_QUICKSTART = Path('work_dirs/quickstart')
#: By what a job does: the words and the tool for it.
_TOOLS = dict(
    train=('Train', 'train'),
    detection=('Evaluate', 'test'),
    regions=('Classify given boxes with', 'region-accuracy'),
)


@dataclass(frozen=True)
class Settings:
    """How tables are made."""

    work_dir: Path  #: Folder of runs and tables.
    data: str = 'symbols'  #: Or 'lvis'.
    seeds: int = 3  #: How many, from 0.
    factor: float = 1.0  #: Of the schedules' lengths, for both stages.
    #: Whether every seed has a pretraining of its own, or that of seed 0.
    own_pretraining: bool = False
    #: Result of the full stage 2, which is then not trained.
    rep: Path | None = None
    gpus: int = 1  #: Processes of a run.
    #: More config settings for every training.
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A step: a pretraining, a training, or an evaluation."""

    run: str  #: Name of its folder.
    seed: int
    what: str  #: 'train', 'detection' or 'regions'.
    kind: str  #: 'pretraining' or 'training', for estimates.
    config: str  #: That it is made from.
    #: Run and seed whose checkpoint it starts from; None for the config's.
    start: tuple[str, int] | None = None
    start_anew: tuple[str, ...] = ()  #: Modules the start may lack.
    trained: bool = True  #: False evaluates the start.
    checkpoint: str | None = None  #: That is there, instead of a ``start``.
    options: tuple[tuple[str, Any], ...] = ()  #: Settings of the run.

    @property
    def key(self) -> tuple[str, int, str]:
        """What its result is stored by."""
        return self.run, self.seed, self.what

    @property
    def name(self) -> str:
        """Name of its log."""
        return f'{self.run}-seed{self.seed}-{self.what}'


class Planner:
    """Which jobs tables need, and how long they take."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.work_dir / 'runs')

    def jobs(self, tables: Sequence[Table]) -> list[Job]:
        """All jobs, each once, what another starts from first.

        Seeds come last: the first seed of every row is done before the second
        of any. ValueError if a row has no config for the data set.
        """
        found: dict[Job, None] = {}
        for seed in range(self.settings.seeds):
            for table in tables:
                for row in table.rows:
                    jobs = self._jobs(row.run, seed, table.evaluation)
                    found.update(dict.fromkeys(jobs))
        return list(found)

    def shared(self, name: str) -> str:
        """First run that is the same training on this data set."""
        data = self.settings.data

        def identity(run: Run) -> tuple[Any, ...]:
            start = (run.pretraining or {}).get(data)
            rest = run.trained, run.start_anew, run.options
            return run.configs.get(data), start, *rest

        wanted = identity(RUNS[name])
        return next(k for k, run in RUNS.items() if identity(run) == wanted)

    def seeds_of(self, run: str) -> tuple[int, ...]:
        """Seeds of a run; what is not trained has one."""
        return tuple(range(self.settings.seeds if RUNS[run].trained else 1))

    def _jobs(self, name: str, seed: int, evaluation: str) -> list[Job]:
        """The jobs of a row for a seed, in order."""
        name = self.shared(name)
        run, jobs, start, checkpoint = RUNS[name], [], None, None
        if seed not in self.seeds_of(name):
            return []
        if run.pretraining is FULL_REP and self.settings.rep:
            checkpoint = str(self.settings.rep)
        elif run.pretraining:
            config = self._config(name, run.pretraining)
            own = self.settings.own_pretraining
            start = f'pretraining-{Path(config).stem}', seed if own else 0
            jobs.append(Job(*start, 'train', 'pretraining', config))
        config = self._config(name, run.configs)
        common = dict(
            run=name,
            seed=seed,
            kind='training',
            config=config,
            start=start,
            start_anew=run.start_anew,
            trained=run.trained,
            checkpoint=checkpoint,
            options=run.options,
        )
        return jobs + [Job(what=k, **common) for k in ('train', evaluation)]

    def _config(self, name: str, configs: Mapping[str, str]) -> str:
        if self.settings.data not in configs:
            raise ValueError(
                f'The run {name!r} has no config for the data set '
                f'{self.settings.data!r}; choose other --rows.'
            )
        return configs[self.settings.data]

    def folder(self, job: Job) -> Path:
        """Work folder of the training that a job belongs to."""
        return self.store.folder(job.run, job.seed)

    def done(self, job: Job) -> bool:
        """Whether its result is there."""
        return self.store.read(*job.key) is not None

    def half_trained(self, job: Job) -> bool:
        """Whether it is a training that was begun and not finished."""
        begun = newest_run(self.folder(job)) is not None
        return job.what == 'train' and begun and not self.done(job)

    def make_config(self, job: Job) -> Config:
        """Config of the training that a job belongs to."""
        start, settings = job.checkpoint, self.settings
        if job.start is not None:
            train = self.store.read(*job.start, 'train') or {}
            missing = self.store.folder(*job.start) / 'not_trained_yet.pth'
            start = train.get('checkpoint') or str(missing)
        options = {**dict(job.options), **settings.options}
        rest = start, job.start_anew, options
        return run_config(job.config, settings.factor, job.seed, *rest)

    def estimate(self, job: Job) -> float | None:
        """Seconds a job takes, from what was measured; None if nothing was.

        Trainings: the pace of their own log, else the mean of all finished
        ones of the kind, else that of the last quickstart; evaluations
        likewise.
        """
        on_symbols = self.settings.data == 'symbols'
        if job.what != 'train':
            seconds = self.store.seconds('training', job.what)
            if seconds or not on_symbols:
                return seconds
            # Given boxes take less than detection.
            return _quickstart_evaluation()
        if not job.trained:
            return 0.0
        pace = measured_pace(self.folder(job))
        pace = pace or self.store.seconds(job.kind, 'seconds_per_iter')
        if pace is None and on_symbols:
            stage = 'rep' if job.kind == 'pretraining' else 'dito'
            pace = measured_pace(_QUICKSTART / stage)
        if pace is None:
            return None
        return _STARTUP + pace * self.make_config(job).train_cfg.max_iters

    def stage(self, job: Job) -> Stage:
        """The command of a job, whole once what it starts from is there."""
        folder, (verb, tool) = self.folder(job), _TOOLS[job.what]
        arguments = [str(folder.with_suffix('.py'))]
        if job.what == 'train':
            arguments += ['--work-dir', str(folder)]
            if (folder / 'last_checkpoint').is_file():
                arguments.append('--resume')
        else:
            train = self.store.read(job.run, job.seed, 'train') or {}
            arguments.append(str(train.get('checkpoint')))
            arguments += ['--work-dir', str(folder / job.what)]
        # For the display of the time left; a minute if it is unknown.
        cost = Cost(self.estimate(job) or 60.0)
        title = f'{verb} {job.run}, seed {job.seed}'
        gpus = self.settings.gpus
        return Stage(job.name, title, tool, arguments, cost, gpus)

    def keep(self, job: Job, seconds: float) -> None:
        """Write the result of a step that took so long and has ended well."""
        folder, values = self.folder(job), dict(seconds=round(seconds, 1))
        if job.what == 'train':
            iters = self.make_config(job).train_cfg.max_iters
            checkpoint = str((folder / f'iter_{iters}.pth').resolve())
            values.update(kind=job.kind, trained=True, iters=iters)
            values.update(checkpoint=checkpoint)
            values.update(seconds_per_iter=measured_pace(folder))
        else:
            values.update(run=job.run, seed=job.seed, config=job.config)
            values.update(factor=self.settings.factor)
            values.update(metrics=read_test_metrics(folder / job.what))
        self.store.write(*job.key, values)


def _quickstart_evaluation() -> float | None:
    """Seconds of the last quickstart's evaluation, None without one."""
    path = _QUICKSTART / 'metrics.json'
    if not path.is_file():
        return None
    figures = read_json(path)
    return figures.get('stage_seconds', {}).get('evaluation')


def run_tables(
    tables: Sequence[Table],
    settings: Settings,
    budget_hours: float | None = None,
) -> list[Job]:
    """Make what tables need and is not there yet; returns what is left.

    No job is begun that would, as far as is known, end after ``budget_hours``.

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
    stages = [planner.stage(job) for job in todo]
    reporter = Reporter(stages, settings.work_dir)
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    for number, job in enumerate(todo):
        end = time.monotonic() - begin + (planner.estimate(job) or 0.0)
        if budget_hours is not None and end > 3600 * budget_hours:
            console.print(
                f'The budget of {budget_hours:g} hours is spent; '
                f'{len(todo) - number} steps are left. The same command goes '
                'on from here.'
            )
            return todo[number:]
        cfg = planner.make_config(job)
        if job.what == 'train' and not job.trained:
            values = dict(kind=job.kind, trained=False)
            values['checkpoint'] = str(cfg.load_from)
            planner.store.write(*job.key, values)
            continue
        planner.store.prepare(job.run, job.seed, cfg)
        stages[number] = planner.stage(job)
        planner.keep(job, reporter.run(stages[number]))
    return []
