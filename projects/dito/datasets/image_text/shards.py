# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Image-text pairs from tar shards, as img2dataset writes them."""

import copy
import logging
import os
import sys
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union
from urllib.parse import urlparse

import numpy as np
from mmdet.registry import DATASETS
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.shardlists import expand_urls

from .position import initial_state
from .streams import Cursor, ShardStream, StreamPlan
from .tar_reader import (
    IMAGE_EXTENSIONS,
    TEXT_EXTENSION,
    RawSample,
    count_samples,
    is_local,
)
from .transforms import CropTransform

# The share of broken samples says little before this many were read.
_MIN_READ = 200
# Web data has some broken samples in every shard: do not log them all.
_MAX_LOGGED = 20


@DATASETS.register_module()
class ImageTextShards(IterableDataset):
    """Endless (image, text) pairs from webdataset shards.

    Shards are tar files with ``KEY.jpg`` (or png, webp) and ``KEY.txt``.
    They are read through ``num_streams`` logical streams whose order depends
    on the seed alone. Each (worker, rank) owns a share of the streams and
    takes one sample from each in turn. Hence N processes with batch B see
    the same global batches as one process with batch N * B (given the same
    number of workers, and ``num_streams`` divisible by workers x processes):
    sample i of rank r is sample i * N + r of the one process.

    A broken sample (undecodable image, missing or empty caption, shard that
    breaks off) is logged and skipped; too many of them stop the run.

    Args:
        shards (str or list[str]): Addresses; braces are expanded
            (``data/{00000..01023}.tar``), ``::`` joins lists, ``pipe:`` and
            ``http:`` addresses are opened as webdataset opens them.
        size (int): Side of the square output in pixels.
        scale (tuple[float, float], optional): Area range of the random
            crop; None takes the centred square. Defaults to (0.4, 1.0).
        flip (float): Probability of a horizontal flip. Defaults to 0.
        num_streams (int): Number of logical streams. With one stream a
            worker, each batch holds neighbouring samples of one shard.
        seed (int): Seed of shard order, sample order and crops.
        shuffle_shards (bool): Whether shards come in a new order each epoch.
        shuffle_block (int): Number of neighbouring samples permuted
            together; 0 keeps the order of the shards. Defaults to 0.
        epochs (int, optional): Number of epochs. Defaults to None, endless.
        max_skip_share (float): Share of broken samples that stops the run.

    Raises:
        FileNotFoundError: If there is no shard, or a local one is missing.
    """

    def __init__(
        self,
        shards: Union[str, Sequence[str]],
        size: int,
        *,
        scale: Optional[Tuple[float, float]] = (0.4, 1.0),
        flip: float = 0.0,
        num_streams: int = 1,
        seed: int = 0,
        shuffle_shards: bool = True,
        shuffle_block: int = 0,
        epochs: Optional[int] = None,
        max_skip_share: float = 0.1,
    ) -> None:
        super().__init__()
        if num_streams < 1:
            raise ValueError(
                f'num_streams must be at least 1, got {num_streams}')
        urls = expand_shards(shards)
        if len(urls) < num_streams:
            print_log(
                f'{len(urls)} shards for {num_streams} streams: streams '
                'share shards, each taking every n-th sample',
                logger='current', level=logging.WARNING)
        self.plan = StreamPlan(
            tuple(urls), num_streams, seed, shuffle_shards, shuffle_block)
        self.transform = CropTransform(size, scale=scale, flip=flip)
        self.epochs = epochs
        self.max_skip_share = max_skip_share
        self.metainfo: Dict[str, Any] = {}
        self._state = initial_state(num_streams)
        self._read = self._skipped = 0
        self._length: Optional[int] = None

    def __len__(self) -> int:
        """Return the number of samples, broken ones included.

        Of an endless set this is the largest number: MMEngine's logger asks
        each iteration whether it is the last. Of a finite one the shards are
        counted by their headers, once.
        """
        if self.epochs is None:
            return sys.maxsize
        if self._length is None:
            self._length = self.epochs * sum(
                count_samples(url) for url in self.plan.shards)
        return self._length

    def state_dict(self) -> Dict[str, Any]:
        """Return the state reading starts from, see :mod:`.position`."""
        return copy.deepcopy(self._state)

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Start reading at a state; to be called before workers start.

        Args:
            state (dict): From :meth:`StreamPosition.state_dict`.

        Raises:
            ValueError: If the state has another number of streams.
        """
        if len(state['cursors']) != self.plan.num_streams:
            raise ValueError(
                f'the state holds {len(state["cursors"])} streams, the '
                f'dataset has num_streams={self.plan.num_streams}; resume '
                'with the number of streams the run began with')
        self._state = copy.deepcopy(state)

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        """Yield samples of the streams this worker of this process owns.

        Yields:
            dict: ``inputs`` (3, size, size) uint8 array RGB, ``texts`` str,
            ``keys`` str, ``cursors`` (4,) int64 array of the stream's number
            and the :class:`Cursor` after the sample, ``skipped`` int, broken
            samples since the last one.
        """
        owned = self._owned_streams()
        streams = {
            m: iter(
                ShardStream(self.plan, m, Cursor(*self._state['cursors'][m]),
                            self.epochs, self._on_shard_error))
            for m in owned
        }
        skipped = self._skipped
        while streams:
            for m in list(streams):
                sample = self._next_good(m, streams[m])
                if sample is None:
                    del streams[m]
                    continue
                sample['skipped'] = self._skipped - skipped
                skipped = self._skipped
                yield sample

    def _owned_streams(self) -> List[int]:
        """List the streams of this (rank, worker), the next one first."""
        rank, world_size = get_dist_info()
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id,
                                                       info.num_workers)
        if self.plan.num_streams % (workers * world_size):
            raise ValueError(
                f'num_streams={self.plan.num_streams} must be divisible by '
                f'{workers} workers x {world_size} processes')
        # DataLoader takes batches from its workers in turn, starting with
        # worker 0: after a resume the turn is with another group of streams.
        group = (worker + self._state['batches']) % workers
        streams = range(self.plan.num_streams)[group::workers]
        owned = list(streams[rank::world_size])
        # A batch need not be a multiple of the streams: go on with the
        # stream after the one served last.
        counts = [self._state['counts'][m] for m in owned]
        start = next((i for i in range(1, len(owned))
                      if counts[i] < counts[i - 1]), 0)
        return owned[start:] + owned[:start]

    def _next_good(self, stream: int, samples: Iterator
                   ) -> Optional[Dict[str, Any]]:
        """Return the next sample of a stream that can be used."""
        for cursor, raw, seed in samples:
            self._read += 1
            try:
                text, image = split_sample(raw)
                rng = np.random.default_rng(seed)
                inputs = self.transform(image, rng)
            except ValueError as error:
                self._count_skip(f'sample {raw.key}: {error}')
                continue
            return dict(
                inputs=inputs, texts=text, keys=raw.key,
                cursors=np.array((stream, *cursor), np.int64))
        return None

    def _on_shard_error(self, url: str, error: Exception) -> None:
        """Count a shard that breaks off as one broken sample."""
        self._read += 1
        self._count_skip(f'rest of shard {url}: {error}')

    def _count_skip(self, what: str) -> None:
        """Log a broken sample, stop the run when there are too many."""
        self._skipped += 1
        if self._skipped <= _MAX_LOGGED or self._skipped % 1000 == 0:
            print_log(
                f'Skipped {what} ({self._skipped} of {self._read} so far)',
                logger='current', level=logging.WARNING)
        if (self._read >= _MIN_READ
                and self._skipped > self.max_skip_share * self._read):
            raise RuntimeError(
                f'{self._skipped} of {self._read} samples are broken, more '
                f'than max_skip_share={self.max_skip_share}; the last was '
                f'{what}')


def expand_shards(shards: Union[str, Sequence[str]]) -> List[str]:
    """Expand shard patterns and check that local files exist.

    Args:
        shards (str or list[str]): Patterns, see :class:`ImageTextShards`.

    Returns:
        list[str]: One address a shard.

    Raises:
        FileNotFoundError: If there is none, or a local one is missing.
    """
    patterns = [shards] if isinstance(shards, str) else list(shards)
    urls = [url for pattern in patterns for url in expand_urls(pattern)]
    if not urls:
        raise FileNotFoundError(
            f'shards={shards!r} names no file; give at least one tar')
    missing = [
        url for url in urls
        if is_local(url) and not os.path.isfile(urlparse(url).path)
    ]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(urls)} shards are missing, the first is '
            f'{missing[0]!r}; check the path or the braces of {shards!r}')
    return urls


def split_sample(raw: RawSample) -> Tuple[str, bytes]:
    """Split a raw sample into its caption and its encoded image.

    Args:
        raw (RawSample): The members of one key.

    Returns:
        tuple[str, bytes]: Caption without surrounding blanks, image.

    Raises:
        ValueError: If either is missing or the caption is empty.
    """
    image = next((raw.parts[e] for e in IMAGE_EXTENSIONS if e in raw.parts),
                 None)
    if image is None:
        raise ValueError(f'no image among {sorted(raw.parts)}')
    if TEXT_EXTENSION not in raw.parts:
        raise ValueError(f'no .{TEXT_EXTENSION} among {sorted(raw.parts)}')
    text = raw.parts[TEXT_EXTENSION].decode('utf-8', 'replace').strip()
    if not text:
        raise ValueError('the caption is empty')
    return text, image
