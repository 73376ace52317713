# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Print a whole config: see dito/cli/print_config.py."""

from dito.cli.print_config import main

if __name__ == '__main__':
    raise SystemExit(main())
