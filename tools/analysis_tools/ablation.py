# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Make the paper's ablation tables: see dito/cli/ablation.py."""

from dito.cli.ablation import main

if __name__ == '__main__':
    raise SystemExit(main())
