# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Make, check and describe image-text shards."""

from .check import check_shards, shard_statistics
from .pairs import Pair, read_pairs
from .write import ShardOptions, write_shards

__all__ = [
    'Pair',
    'ShardOptions',
    'check_shards',
    'read_pairs',
    'shard_statistics',
    'write_shards',
]
