# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write image-caption pairs to tar shards: see dito/cli/pairs2shards.py."""

from dito.cli.pairs2shards import main

if __name__ == '__main__':
    raise SystemExit(main())
