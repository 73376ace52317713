# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Put DITO into a clone of MMDetection: see dito/cli/mmdet_project.py."""

from dito.cli.mmdet_project import main

if __name__ == '__main__':
    raise SystemExit(main())
