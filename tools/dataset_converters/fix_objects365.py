# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Repair an Objects365 annotation file: see dito/cli/fix_objects365.py."""

from dito.cli.fix_objects365 import main

if __name__ == '__main__':
    raise SystemExit(main())
