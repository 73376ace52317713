# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Convert public image-text towers: see dito/cli/clip_to_dito.py."""

from dito.cli.clip_to_dito import main

if __name__ == '__main__':
    raise SystemExit(main())
