# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write COCO files of the open-vocabulary split: see dito/cli/coco2ov.py."""

from dito.cli.coco2ov import main

if __name__ == '__main__':
    raise SystemExit(main())
