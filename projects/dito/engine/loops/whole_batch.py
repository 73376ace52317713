# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""How the batch of a schedule is shared out to the processes of a run.

A learning rate belongs to a batch, and both to the schedule:
``train_cfg.total_batch_size``. ``train_dataloader.batch_size`` is only how
many images a device can take at a time; the number of pieces that a process
takes one after the other follows.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from mmengine.dist import get_world_size
from mmengine.runner import IterBasedTrainLoop

from ..throughput import ThroughputMeter

# Where a launcher says how many processes it has started.
_NUMBER = dict(
    pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE'
)
# How the pieces of stage 3, and those of stages 1 and 2, are called.
ACCUMULATED, MICRO_BATCHES = 'accumulated', 'micro-batches'


class BatchPlan(NamedTuple):
    """Shares of the batch of ``total`` images that one step sees.

    A process takes ``images`` at a time, ``pieces`` times. They are
    ``ACCUMULATED``, with losses of their own, whose mean is trained, or
    ``MICRO_BATCHES``, which share one loss.
    """

    total: int
    processes: int
    images: int
    pieces: int
    kind: str = ACCUMULATED

    @property
    def share(self) -> int:
        """Images of a process in a step."""
        return self.total // self.processes

    def __str__(self) -> str:
        """Say it in one line."""
        plural = 'process' if self.processes == 1 else 'processes'
        images = 'image' if self.images == 1 else 'images'
        line = f'batch {self.total} = {self.processes} {plural} x '
        if self.images * self.pieces != self.share:
            return (
                f'{line}{self.share} images in {self.pieces} {self.kind} '
                f'of at most {self.images}'
            )
        line += f'{self.images} {images}'
        return (
            line
            if self.pieces == 1
            else (f'{line} x {self.pieces} {self.kind}')
        )


class WholeBatchLoop(IterBasedTrainLoop):
    """Iterations that are steps of the whole batch; subclasses make them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._meter = ThroughputMeter()
        self._batches: Any = None

    def run(self) -> torch.nn.Module:
        """Train to ``max_iters``."""
        self._check()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self._go_on()
        self._meter.start()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self._step()
            self._decide_current_val_interval()
            if self._must_validate():
                self.runner.val_loop.run()
                self._meter.start()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _must_validate(self) -> bool:
        """Return whether it is time to validate."""
        if self.runner.val_loop is None or self._iter < self.val_begin:
            return False
        return (
            self._iter % self.val_interval == 0
            or self._iter == self._max_iters
        )


def plan_batch(
    total: int, processes: int, largest: int, kind: str = ACCUMULATED
) -> BatchPlan:
    """Share a batch out, of which a device takes ``largest`` images at a time.

    Accumulated pieces have one number of images, the largest that divides a
    process' share: each counts as much in the mean of their losses. The last
    of the micro-batches may be smaller, since they have no losses of their
    own. ValueError if the batch cannot come out.
    """
    for name, value in (
        ('train_cfg.total_batch_size', total),
        ('train_dataloader.batch_size', largest),
    ):
        if type(value) is not int or value < 1:
            raise ValueError(
                f'{name} must be a whole number from 1 on, got {value!r}.'
            )
    share, rest = divmod(total, processes)
    if rest:
        good = ', '.join(str(n) for n in divisors(total))
        step = processes * largest
        near = max(1, round(total / step)) * step
        raise ValueError(
            f'{processes} processes cannot share the batch of {total} images '
            f'(train_cfg.total_batch_size): start one of {good} processes, '
            f'or choose a batch that {processes} divides, with a learning '
            'rate to match, by --cfg-options '
            f'train_cfg.total_batch_size={near} and --auto-scale-lr.'
        )
    if kind == MICRO_BATCHES:
        pieces = -(-share // largest)
        return BatchPlan(total, processes, -(-share // pieces), pieces, kind)
    images = max(n for n in divisors(share) if n <= largest)
    return BatchPlan(total, processes, images, share // images, kind)


def divisors(number: int) -> list[int]:
    """List the divisors of a number in order."""
    return [n for n in range(1, number + 1) if number % n == 0]


def scales_lr(runner: Any) -> bool:
    """Whether the learning rate of a run follows the batch."""
    places = (
        getattr(runner, 'auto_scale_lr', None),
        getattr(runner, '_auto_scale_lr', None),  # FlexibleRunner
        runner.cfg.get('auto_scale_lr'),
    )
    return any((place or {}).get('enable') for place in places)


def plan_of_config(cfg: Mapping[str, Any], launcher: str) -> BatchPlan | None:
    """Share the batch of a config out before anything is built.

    None where the config leaves the batch to the number of processes;
    ValueError as in :func:`plan_batch`.
    """
    total = (cfg.get('train_cfg') or {}).get('total_batch_size')
    scale = cfg.get('auto_scale_lr') or {}
    if total is None or scale.get('enable'):
        return None
    kind = (
        MICRO_BATCHES
        if cfg['train_cfg'].get('type') == 'ImageTextTrainLoop'
        else ACCUMULATED
    )
    return plan_batch(
        total,
        launcher_size(launcher),
        cfg['train_dataloader']['batch_size'],
        kind,
    )


def launcher_size(launcher: str) -> int:
    """Count the processes of a run, which need not have met yet."""
    if launcher not in _NUMBER:
        return get_world_size()
    return int(os.environ.get(_NUMBER[launcher], 1))
