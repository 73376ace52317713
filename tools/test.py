# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Evaluate a checkpoint: see dito/cli/test.py."""

from dito.cli.test import main

if __name__ == '__main__':
    raise SystemExit(main())
