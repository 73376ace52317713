# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Trainings of any stage."""

import logging
from argparse import Namespace
from typing import Any

from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.logging import print_log

from dito.engine import work_folder
from dito.engine.interruption import Interrupted, end_to_requeue
from dito.engine.loops.whole_batch import plan_of_config
from dito.engine.work_folder import candidates

from . import common
from .errors import rank_of_launcher
from .options import command


def set_amp(cfg: Config) -> None:
    """Switch the optimizer wrapper to bfloat16 autocast, in place."""
    wrapper = cfg.optim_wrapper
    wrapper.type = 'DITOBF16OptimWrapper'
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(key, None)


def set_total(cfg: Config) -> None:
    """Move ``total_batch_size`` to where the loops look for it, in place."""
    if 'total_batch_size' in cfg:
        cfg.train_cfg.total_batch_size = cfg.pop('total_batch_size')


def set_auto_scale_lr(cfg: Config) -> None:
    """Let the learning rate follow another batch, in place.

    A ``total_batch_size`` other than that of the schedule is kept and scaled
    to here; else MMEngine scales to the batch that the processes make.
    ValueError if the batch of the schedule is not known.
    """
    scale = cfg.get('auto_scale_lr') or {}
    total = (cfg.get('train_cfg') or {}).get('total_batch_size')
    base = scale.get('base_batch_size') or total
    if base is None:
        raise ValueError(
            f'--auto-scale-lr needs auto_scale_lr.base_batch_size, which '
            f'{cfg.filename} does not set; add it, or leave the flag out.'
        )
    cfg.auto_scale_lr = dict(scale, base_batch_size=base, enable=True)
    optimizer = cfg.optim_wrapper.get('optimizer') or {}
    if total in (None, base) or 'lr' not in optimizer:
        return
    optimizer.lr *= total / base
    cfg.auto_scale_lr.enable = False
    print_log(
        f'Batch {total} instead of {base}: the learning rate is '
        f'{optimizer.lr:g}.'
    )


def check_loop(cfg: Config) -> None:
    """Refuse, by a ValueError, a loop that cannot train what is loaded.

    Epochs may be counted with what counts iterations, or pairs without end
    given to a loop of MMEngine or detection.
    """
    loop = cfg.get('train_cfg') or {}
    kind = str(loop.get('type', '')).rpartition('.')[2]
    dataset = cfg.train_dataloader.get('dataset')
    if kind not in (
        'EpochBasedTrainLoop',
        'IterBasedTrainLoop',
        'DITOTrainLoop',
    ):
        return
    if isinstance(dataset, dict) and str(dataset.get('type')).endswith(
        'ImageTextShards'
    ):
        raise ValueError(
            f'train_cfg.type={kind} cannot train the pairs of '
            'ImageTextShards, which have no end: leave '
            "type='ImageTextTrainLoop' and set train_cfg.max_iters."
        )
    left = [key for key in ('total_batch_size', 'max_iters') if key in loop]
    if kind == 'EpochBasedTrainLoop' and left:
        raise ValueError(
            f'train_cfg counts epochs and inherits {" and ".join(left)}, '
            'which count iterations: write train_cfg=dict(_delete_=True, '
            "type='EpochBasedTrainLoop', max_epochs=NUMBER), whose batch is "
            'processes x train_dataloader.batch_size.'
        )


def set_batch(cfg: Config, launcher: str) -> None:
    """Share the schedule's batch out, in place; ValueError if it cannot be."""
    train_cfg = cfg.get('train_cfg') or {}
    if train_cfg.get('total_batch_size') is None:
        train_cfg.pop('total_batch_size', None)
    elif train_cfg.get('type') == 'IterBasedTrainLoop':
        train_cfg.type = 'DITOTrainLoop'
    plan_of_config(cfg, launcher)


def set_resume(cfg: Config, resume: str | None) -> None:
    """Resume from a file, or from the last checkpoint, in place.

    A job that is started again and again can always be given ``--resume``:
    the first time it starts from ``load_from``.
    """
    if resume is None:
        return
    if resume != 'auto':
        common.require_checkpoint(resume)
    elif not candidates(cfg.work_dir):
        print_log(
            f'--resume: there is no checkpoint in {cfg.work_dir} yet, '
            'starting from the beginning.',
            level=logging.WARNING,
        )
        return
    cfg.resume = True
    cfg.load_from = None if resume == 'auto' else resume


def set_teacher(cfg: Config, name: str, options: dict[str, Any]) -> None:
    """Let the teacher follow ``--cfg-options load_from=...``, in place.

    The teacher of the distillation is what the training starts from (paper,
    3.4): one file in the configs, two settings.
    """
    teacher = (cfg.get('model') or {}).get('teacher')
    if (
        not teacher
        or 'load_from' not in options
        or any(key.startswith('model.teacher') for key in options)
    ):
        return
    if teacher.get('checkpoint') == common.load_config(name).get('load_from'):
        teacher.checkpoint = cfg.load_from
        print_log(f'The teacher follows load_from: {cfg.load_from}.')


def require_start(cfg: Config) -> None:
    """Refuse a start that is not there, before a large model is built."""
    try:
        common.require_checkpoint(cfg.get('load_from') or '://')
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'The training starts from {cfg.load_from}, which does not exist; '
            'make it first (it is the result of the stage before, or of a '
            'converter), or name another: --cfg-options load_from=FILE'
        ) from error


@command
def main(args: Namespace) -> int:
    """Train."""
    try:
        with end_to_requeue():
            _train(args)
    except Interrupted as end:
        return end.code
    return 0


def _train(args: Namespace) -> None:
    """Prepare the config and train."""
    setup_cache_size_limit_of_dynamo()
    cfg = common.load_config(args.config, args.cfg_options)
    set_teacher(cfg, args.config, args.cfg_options or {})
    common.require_keys(
        cfg,
        dict(
            model='it is a part to inherit from, not a config to run',
            train_dataloader='it cannot be trained',
            optim_wrapper='it cannot be trained',
        ),
    )
    common.set_own_data(cfg, args)
    common.set_work_dir(cfg, args.work_dir)
    if args.amp:
        set_amp(cfg)
    if args.compile:
        cfg.setdefault('custom_hooks', []).append(dict(type='DITOCompileHook'))
    set_total(cfg)
    check_loop(cfg)
    if args.auto_scale_lr:
        set_auto_scale_lr(cfg)
    set_batch(cfg, args.launcher)
    set_resume(cfg, args.resume)
    require_start(cfg)
    common.set_launcher(cfg, args.launcher, args.local_rank)
    if rank_of_launcher() == 0:
        # Before the runner writes into the folder.
        work_folder.claim(cfg.work_dir)
    common.build_runner(cfg).train()
