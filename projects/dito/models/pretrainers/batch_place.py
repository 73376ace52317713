# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Random draws that do not depend on how a batch is split up."""

from typing import Callable, NamedTuple

import torch
from mmengine.dist import get_dist_info
from torch import Tensor


class BatchPlace(NamedTuple):
    """Where a (micro-)batch stands in its run.

    Attributes:
        seed (int): Seed of the run.
        iteration (int): Number of the iteration.
        start (int): First sample of the micro-batch in the process' batch.
        total (int): Size of the process' batch.
    """

    seed: int
    iteration: int
    start: int
    total: int

    def moved(self, offset: int) -> 'BatchPlace':
        """Return the place of a part that begins ``offset`` samples on."""
        return self._replace(start=self.start + offset)

    def draw(self, draw_global: Callable[[int, torch.Generator], Tensor],
             size: int) -> Tensor:
        """Draw for the global batch and take out this part's share.

        Process r of N holds the global samples r, r + N, ... (see
        :class:`ImageTextShards`), hence the strided share.

        Args:
            draw_global (callable): Given the global batch size and a CPU
                generator, returns a tensor (global batch, ...).
            size (int): Number of samples of this part.

        Returns:
            Tensor: (size, ...), the same for a sample whatever the number of
            processes and micro-batches.
        """
        rank, world_size = get_dist_info()
        generator = torch.Generator()
        # Spread consecutive iterations far apart in the generator's seeds.
        generator.manual_seed(
            (self.seed * 0x9E3779B1 + self.iteration * 0x85EBCA77)
            % (1 << 63))
        values = draw_global(self.total * world_size, generator)
        local = values[rank::world_size]
        return local[self.start:self.start + size]
