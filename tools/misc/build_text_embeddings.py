# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Embed class names: see dito/cli/build_text_embeddings.py."""

from dito.cli.build_text_embeddings import main

if __name__ == '__main__':
    raise SystemExit(main())
