# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The paper's ablation tables, trained, evaluated and rendered."""

from .render import render_markdown, render_rich
from .results import Store
from .runner import run_tables
from .tables import RUNS, TABLES

__all__ = [
    'RUNS',
    'Store',
    'TABLES',
    'render_markdown',
    'render_rich',
    'run_tables',
]
