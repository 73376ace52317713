# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Problems of image-text shards."""

from argparse import Namespace
from collections import Counter
from typing import Any

from rich.markup import escape
from rich.table import Table

from dito.datasets.shard_files import check_shards
from dito.evaluation.report import print_table
from dito.utils.files import write_json
from dito.utils.printable import printable

from .errors import ExitCode
from .options import command


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


@command
def main(args: Namespace) -> int:
    """Check and show what was found."""
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
    return ExitCode.FINDINGS if problems else ExitCode.RIGHT
