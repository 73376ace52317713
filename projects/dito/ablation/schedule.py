# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Configs of runs: shorter schedules, seeds, checkpoints to start from."""

import copy
from functools import lru_cache
from typing import Any, Dict, Optional, Sequence

from mmengine.config import Config

from dito.utils.configs import find_config, scale_schedule


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
