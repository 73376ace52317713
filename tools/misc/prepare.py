# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Lay out a data set as the configs expect it: see dito/cli/prepare.py."""

from dito.cli.prepare import main

if __name__ == '__main__':
    raise SystemExit(main())
