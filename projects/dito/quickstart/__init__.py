# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The whole chain on the embedded data set, in one command."""

from .pipeline import run_quickstart

__all__ = ['run_quickstart']
