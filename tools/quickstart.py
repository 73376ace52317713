# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Run the whole chain on the embedded data set: dito/cli/quickstart.py."""

from dito.cli.quickstart import main

if __name__ == '__main__':
    raise SystemExit(main())
