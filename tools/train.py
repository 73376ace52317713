# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Train any stage of DITO: see dito/cli/train.py."""

from dito.cli.train import main

if __name__ == '__main__':
    raise SystemExit(main())
