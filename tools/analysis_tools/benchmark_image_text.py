# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Time the loading of image-text pairs: dito/cli/benchmark_image_text.py."""

from dito.cli.benchmark_image_text import main

if __name__ == '__main__':
    raise SystemExit(main())
