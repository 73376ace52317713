# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What of an image-text set was used: the state a run resumes from.

Workers read ahead, so only the process that uses the batches knows what was
consumed; therefore each sample carries the cursor after it. A state is a dict
of plain numbers: ``cursors`` ([epoch, shard, offset] of each stream),
``counts`` (samples used of each stream), ``batches``, ``passed`` (samples that
were passed over, by reason) and, once a run went on with another number of
workers, ``base`` (the counts of that moment: workers take turns anew from
there).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def initial_state(num_streams: int) -> dict[str, Any]:
    """Return the state before the first sample."""
    return dict(
        cursors=[[0, 0, 0] for _ in range(num_streams)],
        counts=[0] * num_streams,
        batches=0,
    )


class StreamPosition:
    """The place of all streams, kept up with the batches that were used.

    Args:
        state (dict): State to start from.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self._cursors = np.array(state['cursors'], np.int64)
        self._counts = np.array(state['counts'], np.int64)
        self._batches = int(state['batches'])
        self._base = list(state.get('base') or [0] * len(self._counts))
        self.passed: dict[str, int] = dict(state.get('passed') or {})

    def update(
        self,
        cursors: torch.Tensor,
        passed: Mapping[str, int] | None = None,
        batches: int = 1,
    ) -> None:
        """Take over the cursors of batches.

        Args:
            cursors (Tensor): (B, 4) int64 on the CPU: stream, epoch, shard,
                offset of each sample of all processes, each stream's in
                their order of delivery.
            passed (dict[str, int], optional): How many samples were passed
                over on the way, by reason.
            batches (int): How many batches of the loader these are.
        """
        for name, number in (passed or {}).items():
            self.passed[name] = self.passed.get(name, 0) + int(number)
        values = cursors.numpy()
        # Of repeated indices numpy keeps the last assignment.
        self._cursors[values[:, 0]] = values[:, 1:]
        self._counts += np.bincount(values[:, 0], minlength=len(self._counts))
        self._batches += batches

    @property
    def samples(self) -> int:
        """Number of samples used so far."""
        return int(self._counts.sum())

    def state_dict(self) -> dict[str, Any]:
        """Return a state for :meth:`ImageTextShards.load_state_dict`."""
        return dict(
            cursors=self._cursors.tolist(),
            counts=self._counts.tolist(),
            batches=self._batches,
            passed=dict(self.passed),
            base=self._base,
        )
