# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Describe image-text shards: see dito/cli/shard_stats.py."""

from dito.cli.shard_stats import main

if __name__ == '__main__':
    raise SystemExit(main())
