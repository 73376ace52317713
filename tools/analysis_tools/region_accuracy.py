# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Classify annotated boxes: see dito/cli/region_accuracy.py."""

from dito.cli.region_accuracy import main

if __name__ == '__main__':
    raise SystemExit(main())
