# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Trainings of another length."""

from typing import Any

from mmengine.config import Config

#: Keys of a part of ``param_scheduler`` that are iterations.
TIMES = ('begin', 'end', 'T_max', 'milestones', 'decay_iters')
_SAVES = 4


def scale_schedule(cfg: Config, factor: float) -> None:
    """Shorten or lengthen a training, in place.

    The number of iterations and all times of the learning rate are
    multiplied; what does not become a whole number is rounded.

    Args:
        cfg (Config): Config of a training that counts iterations.
        factor (float): Greater than 0.

    Raises:
        ValueError: If the config counts epochs, or nothing would be left.
    """
    iters = cfg.train_cfg.get('max_iters')
    if iters is None or factor <= 0:
        raise ValueError(
            f'{cfg.filename} cannot be scaled by {factor}: the factor must '
            'be above 0 and the config must have train_cfg.max_iters.')
    total = max(round(iters * factor), 1)
    cfg.train_cfg.max_iters = total
    # Evaluation is a step of its own. The interval alone would not do:
    # MMEngine validates after the last iteration whatever the interval.
    cfg.train_cfg.val_begin = cfg.train_cfg.val_interval = total + 1
    schedulers = cfg.get('param_scheduler') or []
    for part in schedulers if isinstance(schedulers, list) else [schedulers]:
        for key in TIMES:
            if part.get(key) is not None:
                part[key] = _scaled(part[key], factor)
        if 'end' in part:
            part['end'] = max(part['end'], part.get('begin', 0) + 1)
        if 'T_max' in part:
            part['T_max'] = max(part['T_max'], 1)
    cfg.default_hooks.checkpoint.update(
        by_epoch=False, interval=-(-total // _SAVES), max_keep_ckpts=1,
        save_last=True)
    cfg.default_hooks.logger.interval = min(
        cfg.default_hooks.logger.get('interval', 50), -(-total // _SAVES))


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, (list, tuple)):
        return [round(v * factor) for v in value]
    return round(value * factor)
