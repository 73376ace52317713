# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Samples that are left out: why, how many, and when it is too many."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import print_log

from dito.utils.errors import BrokenDataError

# A share says little before this many samples, or shards, were read.
_MIN_SAMPLES = 200
_MIN_SHARDS = 10
# Web data has some broken samples in every shard: do not log them all.
_MAX_LOGGED = 20
_SUMMARY_EVERY = 100_000


class BadSample(ValueError):  # noqa: N818 (says what it is, not an error)
    """A sample that cannot be used.

    ``reason`` is what it is counted under, of few; ``detail`` what is special
    about it.
    """

    def __init__(self, reason: str, detail: str = '') -> None:
        super().__init__(f'{reason}: {detail}' if detail else reason)
        self.reason = reason


@contextmanager
def blame_sample(reason: str) -> Iterator[None]:
    """Make any exception of a decoder or parser a :class:`BadSample`.

    What a sample's bytes make a library raise is no end of known types
    (RuntimeError, OverflowError, RecursionError, zlib.error ...), and none of
    them is a reason to end a training. KeyboardInterrupt and the like pass.
    """
    try:
        yield
    except BadSample:
        raise
    except Exception as error:
        raise BadSample(reason, f'{type(error).__name__}: {error}') from error


class SampleCounter:
    """Count what was read, broken and filtered, by reason.

    Broken means that the data is damaged; filtered, that a filter of the
    config leaves a sound sample out. Only the first stops a run.

    Args:
        max_broken_share (float): Share of broken samples, or of shards that
            break off, that stops the run; in [0, 1].
    """

    def __init__(self, max_broken_share: float) -> None:
        if not 0 <= max_broken_share <= 1:
            raise ValueError(
                'max_broken_share must be within [0, 1], got '
                f'{max_broken_share}'
            )
        self.max_broken_share = max_broken_share
        self.read = 0
        self.shards = 0
        self.broken_shards = 0
        self.empty_shards = 0
        self.broken: Counter = Counter()
        self.filtered: Counter = Counter()
        self.num_broken = 0
        self.num_filtered = 0

    def add_read(self) -> None:
        """Count a sample that was read, good or not."""
        self.read += 1
        if self.read % _SUMMARY_EVERY == 0 or self.read in (1000, 10_000):
            self._log_summary()

    def add_shard(self, url: str) -> None:
        """Count a shard that is about to be opened."""
        self.shards += 1

    def add_empty_shard(self, url: str) -> None:
        """Count a shard without samples: strange, but nothing is lost."""
        self.empty_shards += 1
        if self.empty_shards <= _MAX_LOGGED:
            print_log(
                f'Shard {url} holds no sample',
                logger='current',
                level=logging.WARNING,
            )

    def add_filtered(self, reason: str) -> None:
        """Count a sample that a filter leaves out."""
        self.filtered[reason] += 1
        self.num_filtered += 1

    def add_broken(self, reason: str, what: str) -> None:
        """Count a broken sample; BrokenDataError if there are too many."""
        self.broken[reason] += 1
        self.num_broken += 1
        if self.num_broken <= _MAX_LOGGED or self.num_broken % 1000 == 0:
            print_log(
                f'Skipped {what} ({self.num_broken} of {self.read} so far)',
                logger='current',
                level=logging.WARNING,
            )
        if (
            self.read >= _MIN_SAMPLES
            and self.num_broken > self.max_broken_share * self.read
        ):
            raise BrokenDataError(
                f'{self.num_broken} of {self.read} samples are broken '
                f'({_listed(self.broken)}), more than '
                f'max_broken_share={self.max_broken_share}; the last was '
                f'{what}'
            )

    def add_broken_shard(self, url: str, error: Exception) -> None:
        """Count a shard that breaks off; BrokenDataError if too many do."""
        self.broken_shards += 1
        self.read += 1
        self.add_broken(
            'shard breaks off', f'the rest of shard {url}: {error}'
        )
        if (
            self.shards >= _MIN_SHARDS
            and self.broken_shards > self.max_broken_share * self.shards
        ):
            raise BrokenDataError(
                f'{self.broken_shards} of {self.shards} shards break off, '
                f'more than max_broken_share={self.max_broken_share}; the '
                f'last was {url}: {error}'
            )

    def summary(self) -> str:
        """Return the counts as one sentence."""
        text = f'{self.read} samples read'
        for word, counts in (
            ('broken', self.broken),
            ('filtered', self.filtered),
        ):
            text += f', {sum(counts.values())} {word}'
            if counts:
                text += f' ({_listed(counts)})'
        if self.empty_shards:
            text += f', {self.empty_shards} shards empty'
        return text

    def _log_summary(self) -> None:
        """Log the counts where there is something to tell."""
        if self.num_broken or self.num_filtered:
            print_log(
                f'This loading process: {self.summary()}',
                logger='current',
                level=logging.INFO,
            )


def _listed(counts: Counter) -> str:
    return ', '.join(
        f'{count} {reason}' for reason, count in counts.most_common()
    )
