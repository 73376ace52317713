# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write LVIS files without the rare classes: see dito/cli/lvis2ov.py."""

from dito.cli.lvis2ov import main

if __name__ == '__main__':
    raise SystemExit(main())
