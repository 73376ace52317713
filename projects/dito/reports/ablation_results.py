# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Configs and results of ablation runs; what is finished stays finished."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mmengine.config import Config

from dito.utils.configs import find_config, scale_schedule
from dito.utils.files import write_json, write_text


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

    ``factor`` is as of :func:`scale_schedule`. ``start`` is the checkpoint
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
