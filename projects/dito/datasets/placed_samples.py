# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Samples that do not depend on how many processes a training has.

A run deals the samples of one endless order out to its processes. Each has a
place in that order, and what is drawn at random for it is a function of (seed,
place): it is the same whichever process, worker or number of processes loads
the sample, and after a resume.
"""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATA_SAMPLERS
from mmengine.dataset import InfiniteSampler


class PlacedIndex(int):
    """Index of a sample that knows its place in the order of the run.

    ``place`` counts from the beginning of the run, over all processes.
    """

    place: int

    def __new__(cls, value: int, place: int = 0) -> 'PlacedIndex':
        """Make one; unpickling restores the place afterwards."""
        index = super().__new__(cls, value)
        index.place = place
        return index


@DATA_SAMPLERS.register_module()
class DITOInfiniteSampler(InfiniteSampler):
    """MMEngine's endless order, dealt out in whole batches.

    MMEngine gives process r of N every N-th sample, so that the images that
    share a batch, and with it the mean of a loss, depend on N. Here batch n
    of the order goes to process n mod N as a whole.

    Args:
        dataset (Sized): The data set.
        batch_size (int): Images of a batch of a process.
        shuffle (bool): Whether each pass has a new order. Defaults to True.
        seed (int, optional): Seed of the order. Defaults to None, one that
            the processes agree on.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(dataset, shuffle, seed)
        self.batch_size = batch_size
        self._begin = 0

    def skip(self, num_samples: int) -> None:
        """Begin after that many samples of this process, whole batches."""
        self._begin = num_samples // self.batch_size

    def __iter__(self) -> Iterator[PlacedIndex]:
        """Yield the indices of this process."""
        passes, epoch, order = self._passes(), -1, []
        for batch in itertools.count(self._begin):
            first = (batch * self.world_size + self.rank) * self.batch_size
            for place in range(first, first + self.batch_size):
                while epoch < place // self.size:
                    epoch, order = epoch + 1, next(passes)
                yield PlacedIndex(order[place % self.size], place)

    def _passes(self) -> Iterator[Sequence[int]]:
        """Yield the order of each pass over the data."""
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        while True:
            yield (
                torch.randperm(self.size, generator=generator).tolist()
                if self.shuffle
                else range(self.size)
            )


def placed_sampler(
    dataloader: Mapping[str, Any], batch_size: int
) -> dict[str, Any]:
    """Let a loader of MMEngine's endless order deal it out in batches.

    With another sampler than MMEngine's ``InfiniteSampler`` the copy is the
    same.
    """
    changed = dict(dataloader)
    sampler = dataloader.get('sampler')
    if isinstance(sampler, dict) and not dataloader.get('batch_sampler'):
        kind = sampler.get('type')
        kind = DATA_SAMPLERS.get(kind) if isinstance(kind, str) else kind
        if kind is InfiniteSampler:
            changed['sampler'] = dict(
                sampler, type='DITOInfiniteSampler', batch_size=batch_size
            )
    return changed


class PlacedLoading:
    """Loads samples with the generators seeded by (seed, place).

    The loader calls it in place of ``dataset[index]`` once it is the
    ``__getitems__`` of a data set, so that the set stays what it is for all
    others.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __call__(self, indices: Sequence[int]) -> list[Any]:
        """Load the samples of a batch."""
        samples = []
        for index in indices:
            if isinstance(index, PlacedIndex):
                with _seeded((self.seed, index.place)):
                    samples.append(self.dataset[index])
            else:
                samples.append(self.dataset[index])
        return samples


@contextmanager
def _seeded(words: Sequence[int]) -> Iterator[None]:
    """Seed the generators of the CPU, and leave them as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    number = int(np.random.SeedSequence(words).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
