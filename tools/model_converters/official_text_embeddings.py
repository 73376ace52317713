# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Embed names by the authors' text model.

See dito/cli/official_text_embeddings.py.
"""

from dito.cli.official_text_embeddings import main

if __name__ == '__main__':
    raise SystemExit(main())
