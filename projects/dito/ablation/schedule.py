# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Configs of runs: shorter schedules, seeds, checkpoints to start from."""

import copy
from functools import lru_cache
from typing import Any, Dict, Optional, Sequence

from mmengine.config import Config

from dito.utils.config_finder import find_config

_TIMES = ('begin', 'end', 'T_max', 'milestones', 'decay_iters')
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
        for key in _TIMES:
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


@lru_cache(maxsize=64)
def _read(name: str) -> Config:
    """Read a config once: many steps have the same."""
    return Config.fromfile(find_config(name))


def run_config(name: str,
               factor: float,
               seed: int,
               start: Optional[str] = None,
               start_anew: Sequence[str] = (),
               options: Optional[Dict[str, Any]] = None) -> Config:
    """Make the config of one training.

    Args:
        name (str): Config that it is made from.
        factor (float): See :func:`scale_schedule`.
        seed (int): Seed of the training.
        start (str, optional): Checkpoint that it starts from, which is also
            that of the teacher, if it has one. None keeps the config's.
        start_anew (Sequence[str]): Modules the checkpoint may lack.
        options (dict, optional): More settings, as of ``--cfg-options``.

    Returns:
        Config: With an equal schedule for equal factors.
    """
    cfg = copy.deepcopy(_read(name))
    if options:
        cfg.merge_from_dict(options)
    scale_schedule(cfg, factor)
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    if start is not None:
        cfg.load_from = start
        if cfg.model.get('teacher'):
            cfg.model.teacher.checkpoint = start
    for hook in cfg.get('custom_hooks') or ():
        if start_anew and hook['type'] == 'DITOLoadReportHook':
            hook['required'] = [
                k for k in hook['required']
                if not any(f'{k}.'.startswith(f'{m}.') for m in start_anew)
            ]
            hook['allowed_missing'] = [
                *hook.get('allowed_missing', ()), *start_anew]
    return cfg
