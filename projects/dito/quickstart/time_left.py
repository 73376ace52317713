# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""How long a list of steps still takes, from how fast they go."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a step takes on two idle cores, in seconds.

    Other machines take another time, but nearly the same multiple of it in
    every step.

    Args:
        total (float): The whole step.
        startup (float): Until its first unit of progress begins: imports,
            reading of data. Defaults to 0.
        tail (float): From the end of its last unit. Defaults to 0.
    """

    total: float
    startup: float = 0.0
    tail: float = 0.0

    def done(self, share: float) -> float:
        """Work done at a share of the units; 0 before the first is done."""
        if not share:
            return 0.0
        return self.startup + share * (self.total - self.startup - self.tail)


class TimeLeft:
    """Seconds that are left, from the pace of what was done.

    The pace is seconds here for a second of :class:`Cost`. It is one number
    for all steps: a machine that draws slowly trains slowly too, so that the
    first step already says how long the last will take. What is long ago
    counts less, as machines get other work to do.

    Args:
        half_life (float): Seconds after which an observation counts half.
        prior (float): Seconds of observation that the assumed pace of 1 at
            the start counts for.
    """

    def __init__(self, half_life: float = 60.0, prior: float = 4.0) -> None:
        self.half_life = half_life
        self._seconds = self._work = prior
        self._cost = Cost(0.0)
        self._time = self._done = self._gap = 0.0

    @property
    def pace(self) -> float:
        """Seconds here for a second of cost."""
        return self._seconds / self._work

    def begin(self, now: float, cost: Cost) -> None:
        """Note that a step begins.

        Args:
            now (float): A clock, in seconds.
            cost (Cost): The step's.
        """
        self._cost, self._time, self._done = cost, now, 0.0
        self._gap = cost.startup or cost.total

    def end(self, now: float) -> None:
        """Note that the step has ended."""
        self._note(now, self._cost.total)

    def left(self, now: float, share: float, later: float) -> float:
        """Estimate the time until everything is done.

        Args:
            now (float): The clock of :meth:`begin`.
            share (float): Share of the step's units that are done.
            later (float): Costs of the steps after it.

        Returns:
            float: Seconds, 0 or more.
        """
        self._note(now, self._cost.done(share))
        since = now - self._time
        # If the next unit is late, the pace is at least what it would be if
        # the unit ended now.
        pace = max(self.pace, (self._seconds + since) / (
            self._work + self._gap))
        here = pace * (self._cost.total - self._done) - min(
            since, pace * self._gap)
        return max(here, 0.0) + pace * later

    def _note(self, now: float, done: float) -> None:
        """Take progress into the pace, if there is any."""
        seconds, work = now - self._time, done - self._done
        if work <= 0:
            return
        weight = 0.5**(seconds / self.half_life)
        self._seconds = weight * self._seconds + seconds
        self._work = weight * self._work + work
        self._time, self._done = now, done
        # Units are alike; after the last one the tail is due.
        self._gap = min(work, self._cost.total - done)
