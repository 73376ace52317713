# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Data sets laid out as the configs expect."""

import os
from argparse import Namespace

from rich.markup import escape
from rich.table import Table

from dito.datasets.prepare import LAYOUTS, prepare
from dito.evaluation.report import print_table

from .errors import ExitCode
from .options import command


@command
def main(args: Namespace) -> int:
    """Prepare."""
    layout = LAYOUTS[args.dataset]
    root = args.out_dir or layout.root
    steps = prepare(layout, root, args.source, args.convert)
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
