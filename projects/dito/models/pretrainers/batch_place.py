# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Random draws that do not depend on how a batch is split up."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch import Tensor


class BatchPlace(NamedTuple):
    """Where a (micro-)batch stands in its run.

    Sample i of process r of N has the global number i * N + r, which is the
    order in which :class:`ImageTextShards` deals samples out. What is drawn
    for a sample is a function of (seed, iteration, global number), so it is
    the same for any number of processes and any micro-batches.

    Attributes:
        seed (int): Seed of the run.
        iteration (int): Number of the iteration.
        start (int): First sample of the micro-batch in the process' batch.
        total (int): Size of the process' batch.
        alone (bool): Whether every process draws as if it were the only one,
            so that all have the same numbers. Defaults to False.
    """

    seed: int
    iteration: int
    start: int
    total: int
    alone: bool = False

    def moved(self, offset: int) -> 'BatchPlace':
        """Return the place of a part that begins ``offset`` samples on."""
        return self._replace(start=self.start + offset)

    def draw(
        self, draw_global: Callable[[int, torch.Generator], Tensor], size: int
    ) -> Tensor:
        """Draw for the global batch and take out this part's share.

        Args:
            draw_global (callable): Given the global batch size and a CPU
                generator, returns a tensor (global batch, ...).
            size (int): Number of samples of this part.

        Returns:
            Tensor: (size, ...).
        """
        rank, world_size = self._dist_info()
        seed = np.random.SeedSequence((self.seed, self.iteration))
        generator = torch.Generator()
        generator.manual_seed(int(seed.generate_state(1)[0]))
        values = draw_global(self.total * world_size, generator)
        return values[rank::world_size][self.start : self.start + size]

    def rand(self, size: int, shape: tuple[int, ...]) -> Tensor:
        """Draw uniform numbers in [0, 1), sample by sample.

        Unlike :meth:`draw` this makes only the numbers of this part.

        Args:
            size (int): Number of samples of this part.
            shape (tuple[int, ...]): Shape of one sample's numbers.

        Returns:
            Tensor: (size, *shape) float32.
        """
        rank, world_size = self._dist_info()
        values = np.empty((size, *shape), np.float32)
        for i in range(size):
            number = (self.start + i) * world_size + rank
            rng = np.random.default_rng((self.seed, self.iteration, number))
            rng.random(out=values[i], dtype=np.float32)
        return torch.from_numpy(values)

    def _dist_info(self) -> tuple[int, int]:
        """Return number of this process and of all that share the batch."""
        return (0, 1) if self.alone else get_dist_info()
