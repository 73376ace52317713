# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Convert the authors' checkpoint: see dito/cli/official_to_dito.py."""

from dito.cli.official_to_dito import main

if __name__ == '__main__':
    raise SystemExit(main())
