# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Check the data sets of a config: see dito/cli/check_dataset.py."""

from dito.cli.check_dataset import main

if __name__ == '__main__':
    raise SystemExit(main())
