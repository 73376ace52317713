# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Lay out a data set as the configs expect it, from what was downloaded.

Makes links, unpacks annotation files from their archives, and says what is
missing and where its owner publishes it. Downloads nothing; a second run
changes nothing. Exits with 1 if something is missing.
"""

import argparse
import os
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from dito.datasets.prepare import LAYOUTS, prepare
from dito.evaluation.report import print_table

from .errors import one_sentence_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/misc/prepare.py``."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('dataset', choices=list(LAYOUTS))
    parser.add_argument(
        '--root',
        help='folder to lay it out in (default: where the configs look, such '
        'as data/lvis_v1)',
    )
    parser.add_argument(
        '--source',
        nargs='+',
        default=[],
        metavar='DIR',
        help='folders with the published files, unpacked or, for '
        'annotations, as zip',
    )
    parser.add_argument(
        '--convert',
        action='store_true',
        help='write the smaller files for other programs, too: base classes '
        'only, categories alone, repaired names',
    )
    return parser.parse_args(argv)


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, as ``tools/misc/prepare.py`` is told to."""
    args = parse_args(argv)
    layout = LAYOUTS[args.dataset]
    root = args.root or layout.root
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
    return 1 if missing else 0
