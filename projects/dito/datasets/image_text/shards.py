# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Image-text pairs from tar shards, as img2dataset writes them."""

import copy
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from mmdet.registry import DATASETS
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from torch.utils.data import IterableDataset, get_worker_info

from dito.utils.errors import BrokenDataError

from .bad_samples import BadSample, SampleCounter, blame_sample
from .captions import ShardsType, SourceDraw, build_sources
from .streams import (
    Cursor,
    SamplePlace,
    ShardStream,
    StreamPlan,
    initial_state,
)
from .tar_reader import RawSample, count_samples
from .tar_walk import is_local
from .transforms import MAX_PIXELS, CropTransform


@DATASETS.register_module()
class ImageTextShards(IterableDataset):
    """Endless (image, text) pairs from webdataset shards.

    Shards are tar files with ``KEY.jpg`` (or jpeg, png, webp) and ``KEY.txt``,
    as img2dataset writes them, with or without ``KEY.json``.
    They are read through ``num_streams`` logical streams whose order depends
    on the seed alone. Each (worker, rank) owns a share of the streams and
    takes one sample from each in turn. Hence N processes with batch B see
    the same global batches as one process with batch N * B (given the same
    number of workers, and ``num_streams`` divisible by workers x processes):
    sample i of rank r is sample i * N + r of the one process.

    Of several weighted sources each has all streams of its own; which source
    sample n of a stream comes from is drawn from (seed, stream, n) alone.
    Broken and filtered samples are replaced by the next of the same source,
    so the weights hold for what is delivered.

    A broken sample (undecodable image, missing or empty caption, shard that
    breaks off) is counted by reason, logged and skipped; too many of them
    stop the run. A filtered one is counted by reason. A shard without samples
    is named; a stream that has no others reads those of the next stream.

    Args:
        shards (str, list[str] or list[dict]): Addresses; braces are expanded
            (``data/{00000..01023}.tar``), ``::`` joins lists. Besides paths:
            ``pipe:COMMAND``, ``https:``, ``s3:``, ``gs:``, ``hf:`` and what
            else webdataset opens. For a mixture one dict a source: ``name``,
            ``shards``, ``weight`` (default 1), ``captions``, ``filters``.
        size (int): Side of the square output in pixels.
        scale (tuple[float, float], optional): Area range of the random
            crop; None takes the centred square. Defaults to (0.4, 1.0).
        flip (float): Probability of a horizontal flip. Defaults to 0.
        num_streams (int): Number of logical streams. With one stream a
            worker, each batch holds neighbouring samples of one shard.
        seed (int, optional): Seed of shard order, sample order and crops.
            Defaults to None, that of the run (``randomness.seed``) within
            :class:`ImageTextTrainLoop`, elsewhere 0.
        shuffle_shards (bool): Whether shards come in a new order each epoch.
        shuffle_block (int): Number of neighbouring samples permuted
            together; 0 keeps the order of the shards. Defaults to 0.
        epochs (int, optional): Number of epochs. Defaults to None, endless;
            a mixture must be.
        captions (dict, optional): Arguments of :class:`CaptionPicker`.
            Defaults to None, the ``.txt`` file.
        filters (list[dict]): Arguments of :class:`FieldFilter`, each.
        max_broken_share (float): Share of broken samples, or of shards that
            break off, that stops the run. Defaults to 0.1.
        max_pixels (int): Images with more pixels to decode are broken.
        retries (int): How often a shard that is not local is opened again
            after an error, from the sample it broke off at. Defaults to 2.

    Raises:
        FileNotFoundError: If there is no shard, or a local one is missing.
        ValueError: If an argument cannot work.
    """

    def __init__(
        self,
        shards: ShardsType,
        size: int,
        *,
        scale: tuple[float, float] | None = (0.4, 1.0),
        flip: float = 0.0,
        num_streams: int = 1,
        seed: int | None = None,
        shuffle_shards: bool = True,
        shuffle_block: int = 0,
        epochs: int | None = None,
        captions: dict[str, Any] | None = None,
        filters: Sequence[dict[str, Any]] = (),
        max_broken_share: float = 0.1,
        max_pixels: int = MAX_PIXELS,
        retries: int = 2,
    ) -> None:
        super().__init__()
        if num_streams < 1:
            raise ValueError(
                f'num_streams must be at least 1, got {num_streams}'
            )
        self.sources = build_sources(shards, captions, filters)
        if epochs is not None and len(self.sources) > 1:
            raise ValueError(
                f'a mixture of {len(self.sources)} sources has no end: leave '
                f'epochs=None, got {epochs}'
            )
        self.plans = [
            StreamPlan(
                tuple(s.shards),
                num_streams,
                seed or 0,
                shuffle_shards,
                shuffle_block,
                s.wanted,
                retries,
            )
            for s in self.sources
        ]
        self.seed = seed
        self.num_streams = num_streams
        self.transform = CropTransform(
            size, scale=scale, flip=flip, max_pixels=max_pixels
        )
        self.epochs = epochs
        self.metainfo: dict[str, Any] = {}
        self.counter = SampleCounter(max_broken_share)
        self._state = initial_state(num_streams * len(self.sources))
        self._length: int | None = None
        self._sizes: list[dict[int, int]] = [{} for _ in self.sources]
        self._say_what_is_shared()

    def _say_what_is_shared(self) -> None:
        """Tell of sources with fewer shards than streams."""
        for source in self.sources:
            number = len(source.shards)
            if number < self.num_streams:
                of = f' of {source.name!r}' if source.name else ''
                print_log(
                    f'{number} shards{of} for {self.num_streams} streams: '
                    'streams share shards, each taking every n-th sample, '
                    'and a shared shard is read by each of them',
                    logger='current',
                    level=logging.WARNING,
                )

    def follow_seed(self, seed: int) -> None:
        """Use the seed of a run, unless the set was given one of its own.

        Args:
            seed (int): The same on all processes; to be called before
                workers start.
        """
        if self.seed is None:
            self.plans = [replace(plan, seed=seed) for plan in self.plans]

    def check_split(self, num_workers: int) -> None:
        """Check that the streams can be shared out evenly.

        Args:
            num_workers (int): Of the loader of each process.

        Raises:
            ValueError: If they cannot.
        """
        workers, (_, world_size) = max(1, num_workers), get_dist_info()
        step = workers * world_size
        if self.num_streams % step:
            above = -(-self.num_streams // step) * step
            raise ValueError(
                f'num_streams={self.num_streams} must be divisible by '
                f'{workers} workers x {world_size} processes: set it to '
                f'{above} or another multiple of {step}, or change '
                'train_dataloader.num_workers; a run that is resumed must '
                'keep its num_streams'
            )

    def __len__(self) -> int:
        """Return the number of samples, broken ones included.

        Of an endless set this is a number never reached: MMEngine's logger
        asks each iteration whether it is the last. Of a finite one the
        shards are counted by their headers, once.
        """
        if self.epochs is None:
            # DataLoader divides it as a float, which may round it up.
            return sys.maxsize // 2
        if self._length is None:
            self._length = self.epochs * sum(
                count_samples(url) for url in self.plans[0].shards
            )
        return self._length

    def count_pairs(self, limit: int) -> int:
        """Count the pairs of an epoch by the headers of the shards.

        Args:
            limit (int): Where counting ends.

        Returns:
            int: At most ``limit``, broken ones included. Shards that are not
            local are not read for this: they count as enough.
        """
        found = 0
        for url in (url for plan in self.plans for url in plan.shards):
            if found >= limit or not is_local(url):
                return limit
            found += count_samples(url, limit - found)
        return found

    def state_dict(self) -> dict[str, Any]:
        """State reading starts from, see :class:`StreamPosition`."""
        return copy.deepcopy(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start reading at a state; to be called before workers start.

        Args:
            state (dict): From :meth:`StreamPosition.state_dict`.

        Raises:
            ValueError: If the state has another number of streams.
        """
        found, needed = len(state['cursors']), len(self._state['cursors'])
        if found != needed:
            raise ValueError(
                f'the state holds {found} streams, the dataset has '
                f'num_streams={self.num_streams} x {len(self.sources)} '
                f'sources = {needed}; resume with the numbers of streams and '
                'sources the run began with'
            )
        self._state = copy.deepcopy(state)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield samples of the streams this worker of this process owns.

        ``inputs`` (3, size, size) uint8 array RGB, ``texts`` str, ``keys`` str
        (SOURCE/SHARD/KEY, without SOURCE where that has no name), ``cursors``
        (4,) int64 array of stream x sources + source and the :class:`Cursor`
        after the sample, ``skipped`` and ``filtered`` int, broken and filtered
        samples since the last one.
        """
        streams = {m: self._open_stream(m) for m in self._owned_streams()}
        broken, left_out = self.counter.num_broken, self.counter.num_filtered
        while streams:
            for m in list(streams):
                sample = next(streams[m], None)
                if sample is None:
                    del streams[m]
                    continue
                counter = self.counter
                sample['skipped'] = counter.num_broken - broken
                sample['filtered'] = counter.num_filtered - left_out
                broken, left_out = counter.num_broken, counter.num_filtered
                yield sample

    def _owned_streams(self) -> list[int]:
        """List the streams of this (rank, worker), the next one first."""
        rank, world_size = get_dist_info()
        info = get_worker_info()
        worker, workers = (
            (0, 1) if info is None else (info.id, info.num_workers)
        )
        self.check_split(workers)
        # DataLoader takes batches from its workers in turn, starting with
        # worker 0: after a resume the turn is with another group of streams.
        group = (worker + self._state['batches']) % workers
        streams = range(self.num_streams)[group::workers]
        owned = list(streams[rank::world_size])
        # A batch need not be a multiple of the streams: go on with the
        # stream after the one served last.
        counts = [self._count(m) - self._count(m, 'base') for m in owned]
        start = next(
            (i for i in range(1, len(owned)) if counts[i] < counts[i - 1]), 0
        )
        return owned[start:] + owned[:start]

    def _count(self, stream: int, which: str = 'counts') -> int:
        """Return how many samples of a stream were used."""
        num = len(self.sources)
        values = self._state.get(which, ())
        return sum(values[stream * num : (stream + 1) * num])

    def _open_stream(self, stream: int) -> Iterator[dict[str, Any]]:
        """Yield the usable samples of a stream, mixed from the sources."""
        num = len(self.sources)
        parts = [
            self._open_part(
                stream, s, Cursor(*self._state['cursors'][stream * num + s])
            )
            for s in range(num)
        ]
        draw = SourceDraw(
            [s.weight for s in self.sources], self.plans[0].seed, stream
        )
        number = self._count(stream)
        while True:
            sample = next(parts[draw(number)], None)
            if sample is None:
                return
            number += 1
            yield sample

    def _open_part(
        self, stream: int, number: int, start: Cursor
    ) -> Iterator[dict[str, Any]]:
        """Yield the usable samples of one source within a stream."""
        source = self.sources[number]
        samples = ShardStream(
            self.plans[number],
            stream,
            start,
            self.epochs,
            self.counter.add_broken_shard,
            self.counter.add_shard,
            self.counter.add_empty_shard,
            self._sizes[number],
        )
        place = stream * len(self.sources) + number
        used_epoch = start.epoch
        for cursor, raw, here in samples:
            unused = cursor.epoch - used_epoch - 1
            if unused >= self.plans[number].patience:
                since = (
                    f'epoch {used_epoch + 1}'
                    if unused == 1
                    else f'{unused} epochs'
                )
                raise BrokenDataError(
                    f'stream {stream} of the source {source.name!r} gave no '
                    f'usable sample in {since}: {self.counter.summary()}'
                )
            # Equal draws in different sources would be no fault, but no gain.
            seed = (*here, number) if number else tuple(here)
            sample = self._load(number, raw, here, seed)
            if sample is not None:
                used_epoch = cursor.epoch
                sample['cursors'] = np.array((place, *cursor), np.int64)
                yield sample

    def _load(
        self,
        number: int,
        raw: RawSample,
        here: SamplePlace,
        seed: tuple[int, ...],
    ) -> dict[str, Any] | None:
        """Decode a sample; None if it is broken or filtered."""
        source = self.sources[number]
        key = source.prefixes[here.shard] + raw.key
        self.counter.add_read()
        try:
            with blame_sample('sample cannot be used'):
                image = raw.image()
                text = source.captions(raw, seed)
                reason = source.filters(raw, text, image)
                if reason is not None:
                    self.counter.add_filtered(reason)
                    return None
                inputs = self.transform(image, np.random.default_rng(seed))
        except BadSample as error:
            self.counter.add_broken(error.reason, f'sample {key}: {error}')
            return None
        return dict(inputs=inputs, texts=text, keys=key)
