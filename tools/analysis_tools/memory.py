# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Peak memory of a training step: see dito/cli/memory.py."""

from dito.cli.memory import main

if __name__ == '__main__':
    raise SystemExit(main())
