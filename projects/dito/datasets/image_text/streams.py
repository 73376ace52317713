# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""One logical stream of an image-text set: which sample comes when.

The order of a stream is a function of (seed, stream) alone, and any place in
it is named by a :class:`Cursor` of three numbers, from which reading goes on
without replaying what came before.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from dito.utils.errors import BrokenDataError

from .tar_reader import DEFAULT_WANTED, RawSample, read_shard


def initial_state(num_streams: int) -> dict[str, Any]:
    """Return the state before the first sample."""
    return dict(
        cursors=[[0, 0, 0] for _ in range(num_streams)],
        counts=[0] * num_streams,
        batches=0,
    )


class StreamPosition:
    """The place of all streams, kept up with the batches that were used.

    Workers read ahead, so only the process that uses the batches knows what
    was consumed; therefore each sample carries the cursor after it. A state
    is a dict of plain numbers: ``cursors`` ([epoch, shard, offset] of each
    stream), ``counts`` (samples used of each stream), ``batches``, ``passed``
    (samples that were passed over, by reason) and, once a run went on with
    another number of workers, ``base`` (the counts of that moment: workers
    take turns anew from there).

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
        """Take over the cursors of batches of the loader.

        ``cursors`` are (B, 4) int64 on the CPU: stream, epoch, shard, offset
        of each sample of all processes, each stream's in their order of
        delivery; ``passed`` how many samples were passed over on the way, by
        reason.
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


class Cursor(NamedTuple):
    """The next sample of a stream.

    ``epoch`` counts how often it has gone through the shards, ``shard`` is
    within its epoch, ``offset`` within its share of that shard, in order of
    delivery.
    """

    epoch: int = 0
    shard: int = 0
    offset: int = 0


START = Cursor()


class SamplePlace(NamedTuple):
    """The place of a sample; the seed of its randomness.

    Seed of the run, epoch of its stream, number of its shard among all, and of
    the sample in that.
    """

    seed: int
    epoch: int
    shard: int
    index: int


@dataclass(frozen=True)
class StreamPlan:
    """How shards are spread over streams.

    Attributes:
        shards (tuple[str, ...]): Addresses of all shards.
        num_streams (int): Number of logical streams.
        seed (int): Seed of every order.
        shuffle_shards (bool): Whether each epoch has its own shard order.
        shuffle_block (int): Number of neighbouring samples that are permuted
            together; 0 keeps the order of the shard.
        wanted (frozenset[str], optional): Extensions to read; None for
            images and captions in text files.
        retries (int): How often a remote shard is opened again.
    """

    shards: tuple[str, ...]
    num_streams: int
    seed: int = 0
    shuffle_shards: bool = True
    shuffle_block: int = 0
    wanted: frozenset[str] | None = None
    retries: int = 0

    def shards_of(self, stream: int, epoch: int) -> list[tuple[int, int]]:
        """List (shard number, share) pairs that a stream reads in an epoch.

        With at least as many shards as streams, stream m reads places m, m +
        M, ... of the epoch's order. With fewer, streams share shards: share k
        of c takes every c-th sample, so that no sample comes twice. Shares go
        round from epoch to epoch: a sample that cannot be used is not all that
        one stream ever sees.
        """
        order = np.arange(len(self.shards))
        if self.shuffle_shards:
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(order)
        if len(order) >= self.num_streams:
            return [(int(i), 0) for i in order[stream :: self.num_streams]]
        place, share = stream % len(order), stream // len(order)
        share = (share + epoch) % self.sharers_of(stream)
        return [(int(order[place]), share)]

    def epoch_of(
        self, stream: int, epoch: int
    ) -> Iterator[tuple[int, int, int, bool]]:
        """Yield shard, share, sharers, whether it is the stream's own.

        After its own come those of the following streams: they are for a
        stream whose own shards are all empty.
        """
        for step in range(self.num_streams):
            other = (stream + step) % self.num_streams
            sharers = self.sharers_of(other)
            for number, share in self.shards_of(other, epoch):
                yield number, share, sharers, not step

    @property
    def patience(self) -> int:
        """Epochs until each share of a shard has been with each sharer."""
        return self.sharers_of(0)  # none has more

    def sharers_of(self, stream: int) -> int:
        """Return by how many streams the shard of ``stream`` is shared."""
        num_shards = len(self.shards)
        return len(range(stream % num_shards, self.num_streams, num_shards))


class ShardStream:
    """Read one logical stream from a cursor on.

    Args:
        plan (StreamPlan): How shards are spread over streams.
        stream (int): Number of this stream.
        cursor (Cursor): Where to start.
        epochs (int, optional): Number of epochs to read. Defaults to None,
            without end.
        on_error (callable, optional): Called with (address, exception) when
            a shard breaks off; reading goes on with the next shard. Defaults
            to None, the exception is raised.
        on_open (callable, optional): Called with the address of each shard
            before it is opened.
        on_empty (callable, optional): Called with the address of each shard
            that holds no sample.
        sizes (dict, optional): Number of samples by number of shard, filled
            here where a shard was read to its end: shares beyond it are not
            looked for. Streams of one plan may have it in common.
    """

    def __init__(
        self,
        plan: StreamPlan,
        stream: int,
        cursor: Cursor = START,
        epochs: int | None = None,
        on_error: Callable[[str, Exception], None] | None = None,
        on_open: Callable[[str], None] | None = None,
        on_empty: Callable[[str], None] | None = None,
        sizes: dict[int, int] | None = None,
    ) -> None:
        self.plan = plan
        self.stream = stream
        self.cursor = cursor
        self.epochs = epochs
        self.on_error = on_error
        self.on_open = on_open
        self.on_empty = on_empty
        self.sizes = {} if sizes is None else sizes

    def __iter__(self) -> Iterator[tuple[Cursor, RawSample, SamplePlace]]:
        """Yield (cursor after the sample, sample, seed of its randomness).

        A stream whose own shards are all empty reads a shard of the next
        stream that has one; of a finite set it yields nothing. BrokenDataError
        if a whole epoch held no sample in any stream.
        """
        epoch, first, offset = self.cursor
        while self.epochs is None or epoch < self.epochs:
            found = first > 0 or offset > 0
            for place, (number, share, sharers, own) in enumerate(
                self.plan.epoch_of(self.stream, epoch)
            ):
                if place < first:
                    continue
                if found and not own and not offset:
                    break
                for sample in self._read(
                    epoch, number, share, sharers, offset
                ):
                    found = True
                    if not own and self.epochs is not None:
                        break
                    offset += 1
                    here = SamplePlace(
                        self.plan.seed, epoch, number, sample.index
                    )
                    yield Cursor(epoch, place, offset), sample, here
                offset = 0
            if not found:
                shards = self.plan.shards_of(self.stream, epoch)[:3]
                names = [self.plan.shards[number] for number, _ in shards]
                raise BrokenDataError(
                    f'stream {self.stream} found no readable sample in epoch '
                    f'{epoch}, nor did the others; look at the shards, the '
                    f'first are {names}'
                )
            epoch, first = epoch + 1, 0

    def _read(
        self, epoch: int, number: int, share: int, sharers: int, skip: int
    ) -> Iterator[RawSample]:
        """Yield this stream's samples of a shard after the first ``skip``."""
        if sharers > 1 and share >= self.sizes.get(number, sharers):
            return
        url = self.plan.shards[number]
        size = max(1, self.plan.shuffle_block)
        # Blocks are cut before they are shared, so whole blocks are skipped
        # without reading them only where the shard is not shared.
        start = skip // size * size if sharers == 1 else 0
        taken, end = start, start
        if self.on_open is not None:
            self.on_open(url)
        wanted = self.plan.wanted or DEFAULT_WANTED
        samples = read_shard(url, start, wanted, self.plan.retries)
        try:
            for block in _blocks(samples, size):
                end += len(block)
                for sample in self._permuted(block, epoch, number):
                    if sharers > 1 and sample.index % sharers != share:
                        continue
                    taken += 1
                    if taken > skip:
                        yield sample
        except Exception as error:  # tar, pipe and network errors alike
            if self.on_error is None:
                raise
            self.on_error(url, error)
        else:
            self.sizes[number] = end
            if not end and self.on_empty is not None:
                self.on_empty(url)

    def _permuted(
        self, block: list[RawSample], epoch: int, number: int
    ) -> list[RawSample]:
        """Put a block into its order of delivery."""
        if self.plan.shuffle_block <= 1:
            return block
        seed = (self.plan.seed, epoch, number, block[0].index)
        order = np.random.default_rng(seed).permutation(len(block))
        return [block[i] for i in order]


def _blocks(
    samples: Iterator[RawSample], size: int
) -> Iterator[list[RawSample]]:
    """Group samples by ``size``; what was read before an error comes too."""
    block: list[RawSample] = []
    try:
        for sample in samples:
            block.append(sample)
            if len(block) == size:
                yield block
                block = []
    except Exception:
        if block:
            yield block
        raise
    if block:
        yield block
