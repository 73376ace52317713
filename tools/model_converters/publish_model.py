# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write weights for publication: see dito/cli/publish_model.py."""

from dito.cli.publish_model import main

if __name__ == '__main__':
    raise SystemExit(main())
