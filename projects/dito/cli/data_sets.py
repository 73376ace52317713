# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Data sets: laid out as the configs expect, and "symbols", drawn."""

import os
import time
from argparse import Namespace

from rich.markup import escape
from rich.table import Table

from dito.datasets import prepare as layouts
from dito.datasets.symbols import SymbolsConfig, build_symbols
from dito.evaluation.report import print_table

from .errors import ExitCode
from .options import command
from .options.data import SYMBOLS


@command
def prepare(args: Namespace) -> int:
    """Prepare."""
    layout = layouts.LAYOUTS[args.dataset]
    root = args.out_dir or layout.root
    steps = layouts.prepare(layout, root, args.source, args.convert)
    table = Table(
        'path',
        'state',
        '',
        title=f'{args.dataset} in {root}',
        title_justify='left',
    )
    for step in steps:
        state = (
            f'[red]{step.state}[/]' if step.state == 'missing' else step.state
        )
        table.add_row(escape(step.path), state, escape(step.detail))
    print_table(table)
    missing = [step for step in steps if step.state == 'missing']
    if os.path.abspath(root) != os.path.abspath(layout.root):
        print(
            f'The configs look in {layout.root}: link it there, or set '
            f'data_root to {root}.'
        )
    print(
        f'{len(missing)} of {len(steps)} parts are missing.'
        if missing
        else 'Everything is there.'
    )
    return ExitCode.FINDINGS if missing else ExitCode.RIGHT


@command
def make_symbols(args: Namespace) -> int:
    """Build the set and say what it holds."""
    start = time.perf_counter()
    cfg = SymbolsConfig(
        seed=args.seed,
        train_images=args.pictures[0],
        val_images=args.pictures[1],
        val_drawings_images=args.drawings,
        **{name: getattr(args, name) for name in SYMBOLS},
    )
    manifest = build_symbols(
        args.out_dir, cfg, args.workers, args.overwrite, report=print
    )
    seconds = time.perf_counter() - start
    pictures = sum(manifest['images'].values())
    print(
        f'{args.out_dir}: {manifest["categories"]["total"]} categories, '
        f'{pictures} pictures in {seconds:.0f} s '
        f'({60 * pictures / seconds:.0f} a minute)'
    )
    return 0
