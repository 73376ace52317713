# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Time and memory of stage 1: see dito/cli/benchmark_contrastive.py."""

from dito.cli.benchmark_contrastive import main

if __name__ == '__main__':
    raise SystemExit(main())
