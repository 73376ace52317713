# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Check image-text shards: see dito/cli/check_shards.py."""

from dito.cli.check_shards import main

if __name__ == '__main__':
    raise SystemExit(main())
