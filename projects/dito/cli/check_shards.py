# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Check image-text shards before days are spent on them.

Reads every shard: its structure, its checksum where there is a manifest, that
each sample has an image that can be decoded and a caption. Exits with 1 if
there is a problem.
"""

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from dito.datasets.shard_files import check_shards
from dito.evaluation.report import print_table
from dito.utils.files import write_json
from dito.utils.printable import printable

from .errors import one_sentence_errors


def add_shard_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the tools that read shards share."""
    parser.add_argument(
        'shards',
        nargs='+',
        help='folders of shards, paths, patterns such as {000..127}.tar in '
        'quotes, or addresses as in configs',
    )
    parser.add_argument(
        '--captions',
        nargs='+',
        default=['txt'],
        help='where captions stand: an extension or json.FIELD (default: txt)',
    )
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count() or 1, help='processes'
    )
    parser.add_argument('--json', help='write the findings to this file too')
    parser.add_argument(
        '--debug', action='store_true', help='show the traceback of errors'
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/misc/check_shards.py``."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_shard_arguments(parser)
    parser.add_argument(
        '--manifest',
        help='manifest.json of the shards (default: that of the folder, if '
        'it has one)',
    )
    parser.add_argument(
        '--no-decode',
        action='store_true',
        help="read the images' headers alone: faster, finds less",
    )
    return parser.parse_args(argv)


def show(reports: list[dict[str, Any]]) -> None:
    """Print the shards that have problems."""
    table = Table('shard', 'samples', 'problems', 'the first')
    for report in reports:
        if report['problems']:
            table.add_row(
                escape(report['shard']),
                str(report['samples']),
                '\n'.join(
                    f'{number} {kind}'
                    for kind, number in report['problems'].items()
                ),
                escape('\n'.join(report['examples'])),
            )
    if table.rows:
        print_table(table)


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Check, as ``tools/misc/check_shards.py`` is told to."""
    args = parse_args(argv)
    reports = check_shards(
        args.shards,
        manifest=args.manifest,
        decode=not args.no_decode,
        captions=args.captions,
        workers=args.workers,
    )
    show(reports)
    problems = sum((Counter(r['problems']) for r in reports), Counter())
    samples = sum(report['samples'] for report in reports)
    if args.json:
        write_json(
            args.json,
            dict(
                ok=not problems,
                samples=samples,
                problems=dict(problems),
                shards=reports,
            ),
        )
    listed = ', '.join(f'{n} {kind}' for kind, n in problems.most_common())
    print(
        printable(
            f'{samples} samples in {len(reports)} shards: '
            f'{listed or "no problems"}'
        )
    )
    return 1 if problems else 0
