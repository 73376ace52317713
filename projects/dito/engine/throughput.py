# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Measuring the speed of a training."""

import time
from collections import deque


class ThroughputMeter:
    """Images per second and share of waiting over the last iterations.

    Args:
        window (int): Number of iterations averaged over. Defaults to 50.
    """

    def __init__(self, window: int = 50) -> None:
        self._steps: deque[tuple[float, float, int]] = deque(maxlen=window)
        self._waited = 0.0
        self._last = 0.0

    def start(self) -> None:
        """Begin anew, so that pauses such as validation do not count."""
        self._steps.clear()
        self._last = time.perf_counter()
        self._waited = 0.0

    def wait(self, seconds: float) -> None:
        """Add waiting time of the current iteration."""
        self._waited += seconds

    def wait_since_last(self) -> None:
        """Count all time since the last iteration as waiting."""
        self._waited = time.perf_counter() - self._last

    def step(self, images: int) -> dict[str, float]:
        """End an iteration.

        Args:
            images (int): Number of images of all processes.

        Returns:
            dict[str, float]: ``images_per_second``, and ``loader_wait``, the
            share of the time spent waiting for data.
        """
        now = time.perf_counter()
        self._steps.append((now - self._last, self._waited, images))
        self._last, self._waited = now, 0.0
        seconds, waited, count = (
            sum(column) for column in zip(*self._steps, strict=True)
        )
        return dict(
            images_per_second=count / max(seconds, 1e-9),
            loader_wait=waited / max(seconds, 1e-9),
        )
