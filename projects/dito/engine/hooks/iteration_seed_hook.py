# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Random numbers that a resumed run draws again."""

import random
from typing import Any

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.dist import get_rank
from mmengine.hooks import Hook


@HOOKS.register_module()
class DITOIterationSeedHook(Hook):
    """Seed all generators by (seed, iteration, rank) before each iteration.

    What a step draws (dropout, sampled boxes) is then the same whether the
    run was interrupted before, or validated before, or not. A checkpoint
    need not hold the states of the generators.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self,
                          runner: Any,
                          batch_idx: int,
                          data_batch: Any = None) -> None:
        """Seed Python, NumPy and torch on all devices."""
        words = (runner.seed, runner.iter, get_rank())
        number = int(np.random.SeedSequence(words).generate_state(1)[0])
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
