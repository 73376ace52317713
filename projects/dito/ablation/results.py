# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Folders and results of ablation runs; what is finished stays finished."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Dict, List, Optional, Tuple

from mmengine.config import Config

from dito.quickstart.logs import read_scalars


@dataclass(frozen=True)
class Figure:
    """A figure over seeds.

    Args:
        mean (float): Mean.
        spread (float, optional): Standard deviation of the sample; None of
            one seed.
        seeds (int): How many seeds.
    """

    mean: float
    spread: Optional[float]
    seeds: int


class Store:
    """Results of all runs of one data set and one schedule.

    ``ROOT/RUN/seedN.py`` is the config of a training, ``ROOT/RUN/seedN/``
    holds its logs and checkpoints, ``train.json`` once it is finished, and
    ``EVALUATION.json`` once it is evaluated.

    Args:
        root (Path): Folder of the runs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, run: str, seed: int) -> Path:
        """Work folder of a training."""
        return self.root / run / f'seed{seed}'

    def read(self, run: str, seed: int,
             what: str) -> Optional[Dict[str, Any]]:
        """A result, or None where there is none yet.

        Args:
            run (str): Name of the run.
            seed (int): Its seed.
            what (str): 'train', 'detection' or 'regions'.
        """
        path = self.folder(run, seed) / f'{what}.json'
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding='utf-8'))
        except json.JSONDecodeError as error:
            raise ValueError(f'{path} is damaged ({error}); remove it, and '
                             'this step is made again.') from error

    def write(self, run: str, seed: int, what: str,
              values: Dict[str, Any]) -> None:
        """Write a result as a whole or not at all."""
        write_text(self.folder(run, seed) / f'{what}.json',
                   json.dumps(values, indent=1) + '\n')

    def check(self, run: str, seed: int, cfg: Config) -> Path:
        """Refuse to go on with a training that was begun otherwise.

        Args:
            run (str): Name of the run.
            seed (int): Its seed.
            cfg (Config): Config that it is to have.

        Returns:
            Path: File of its config, which may not be there yet.

        Raises:
            ValueError: If it was begun with another config.
        """
        # Beside the folder: mmengine writes a copy of its own into that.
        path = self.folder(run, seed).with_suffix('.py')
        if path.is_file() and path.read_text(
                encoding='utf-8').split('\n', 1)[0] != _mark(cfg):
            raise ValueError(
                f'{path} was begun with another config or schedule, and its '
                'figures would not compare; give another --work-dir, or '
                'remove the file and its folder.')
        return path

    def prepare(self, run: str, seed: int, cfg: Config) -> Path:
        """Write the config of a training unless it is there; see check."""
        path = self.check(run, seed, cfg)
        if not path.is_file():
            write_text(path, f'{_mark(cfg)}\n{cfg.pretty_text}')
        return path

    def figure(self, run: str, seeds: Tuple[int, ...], what: str,
               metric: str) -> Optional[Figure]:
        """A figure over the finished ones of some seeds.

        Returns:
            Figure | None: None if none is finished or has it.
        """
        values: List[float] = []
        for seed in seeds:
            found = (self.read(run, seed, what) or {}).get('metrics', {})
            if found.get(metric, -1) >= 0:
                values.append(found[metric])
        if not values:
            return None
        return Figure(mean(values),
                      stdev(values) if len(values) > 1 else None,
                      len(values))

    def seconds(self, kind: str, key: str) -> Optional[float]:
        """Mean of a duration over all finished runs of a kind.

        Args:
            kind (str): 'pretraining' or 'training'.
            key (str): 'seconds_per_iter', or an evaluation's name.
        """
        values = []
        for path in sorted(self.root.glob('*/seed*/train.json')):
            train = json.loads(path.read_text(encoding='utf-8'))
            if train.get('kind') != kind:
                continue
            if key == 'seconds_per_iter':
                values.append(train.get(key))
            elif (path.parent / f'{key}.json').is_file():
                text = (path.parent / f'{key}.json').read_text('utf-8')
                values.append(json.loads(text).get('seconds'))
        values = [v for v in values if v]
        return mean(values) if values else None


def _mark(cfg: Config) -> str:
    """First line of a config's file, which tells configs apart."""
    text = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    return f'# sha256 {hashlib.sha256(text.encode()).hexdigest()}'


def measured_pace(work_dir: Path) -> Optional[float]:
    """Mean seconds an iteration in the last log of a work folder."""
    rows = [r for r in read_scalars(work_dir) if 'loss' in r and 'time' in r]
    return mean(r['time'] for r in rows) if rows else None


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{os.getpid()}.{path.name}')
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, path)
