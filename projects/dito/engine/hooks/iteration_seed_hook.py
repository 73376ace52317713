# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Random numbers that a resumed run draws again."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.datasets.samplers import GroupMultiSourceSampler, MultiSourceSampler
from mmdet.registry import HOOKS
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader, Dataset, get_worker_info

ENDLESS = (InfiniteSampler, GroupMultiSourceSampler, MultiSourceSampler)


@HOOKS.register_module()
class DITOIterationSeedHook(Hook):
    """Seed all generators by (seed, iteration, rank) before each iteration.

    What a step draws (dropout, sampled boxes) is then the same whether the
    run was interrupted before, or validated before, or not. A checkpoint
    need not hold the states of the generators.

    Data sets with indices, those of stage 3, are seeded before each batch is
    loaded, by its number: crops and scales of a resumed run are those of one
    that was never interrupted, with any number of workers. This needs
    iterations and a sampler without an end. :class:`DITOTrainLoop` numbers
    the samples themselves, so that the number of processes may change too.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        """Number the batches that workers will load."""
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop) and is_endless(
            loop.dataloader
        ):
            dataset = loop.dataloader.dataset
            # torch loads a batch by this, where a data set has it.
            dataset.__getitems__ = _NumberedBatches(
                dataset, runner.seed, _first_batch(loop)
            )

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Seed Python, NumPy and torch on all devices."""
        seed_generators(runner.seed, runner.iter, get_rank())


class _NumberedBatches:
    """Load batches whose random numbers depend on their number alone."""

    def __init__(self, dataset: Dataset, seed: int, first: int) -> None:
        self.dataset = dataset
        self.words = (seed, get_rank())
        self.next = first

    def __call__(self, indices: Sequence[int]) -> list[Any]:
        """Load one batch; workers take turns, beginning with the first."""
        worker = get_worker_info()
        number = self.next + (worker.id if worker else 0)
        self.next += worker.num_workers if worker else 1
        # A fourth word, other numbers than those of the step.
        seed_generators(self.words[0], number, self.words[1], 1)
        return [self.dataset[index] for index in indices]


def is_endless(loader: DataLoader) -> bool:
    """Whether the sampler of a loader never comes to an end."""
    samplers = (loader.sampler, getattr(loader.batch_sampler, 'sampler', None))
    return any(isinstance(sampler, ENDLESS) for sampler in samplers)


def _first_batch(loop: IterBasedTrainLoop) -> int:
    """Number of the first batch to be loaded, as the loop resumes."""
    skips = (
        loop.fast_forward_on_resume
        or loop.dataloader.num_workers == 0
        or hasattr(loop.dataloader.sampler, 'skip')
    )
    # MMEngine's loop loads and discards what it cannot skip.
    return loop.iter if skips else 0


def seed_generators(*words: int) -> None:
    """Seed Python, NumPy and torch on all devices by a few numbers."""
    number = int(np.random.SeedSequence(words).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
