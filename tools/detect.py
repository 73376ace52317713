# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Find named objects in pictures: see dito/cli/detect.py."""

from dito.cli.detect import main

if __name__ == '__main__':
    raise SystemExit(main())
