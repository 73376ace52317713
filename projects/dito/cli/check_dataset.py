# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Problems of the data sets of a config."""

from argparse import Namespace
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from dito.datasets.checks import (
    KINDS,
    SetReport,
    check_config,
    check_files,
)
from dito.evaluation.report import print_table
from dito.models.text import Vocabulary
from dito.utils.files import write_json

from . import common
from .errors import ExitCode
from .options import command

_COUNTS = (
    'images',
    'classes',
    'base_classes',
    'novel_classes',
    'unknown_classes',
    'base_boxes',
    'novel_boxes',
    'unknown_boxes',
)


def check(args: Namespace) -> list[SetReport]:
    """Run the checks that the command line asks for."""
    if args.data is not None:
        return [
            check_files(args.data, args.images, args.max_images, args.workers)
        ]
    cfg = common.load_config(args.config, args.cfg_options)
    return check_config(cfg, args.max_images, args.workers, Vocabulary.load)


def show(reports: list[SetReport], allowed: Sequence[str]) -> None:
    """Print a table of counts and one of findings."""
    counts = Table(
        'data set',
        'annotation file',
        title='Classes by name',
        title_justify='left',
    )
    for name in _COUNTS:
        counts.add_column(name.replace('_', ' '), justify='right')
    for report in reports:
        values = [str(report.counts.get(name, '-')) for name in _COUNTS]
        counts.add_row(report.name, escape(report.ann_file), *values)
    print_table(counts)
    found = Table(
        'data set',
        '',
        'kind',
        'number',
        'what',
        title='Findings',
        title_justify='left',
    )
    for report in reports:
        problems = report.problems(allowed)
        for finding in sorted(report.findings, key=lambda f: f.note):
            mark = '[red]problem[/]' if finding in problems else 'note'
            text = '\n'.join(escape(e) for e in finding.examples)
            found.add_row(
                report.name,
                mark,
                finding.kind,
                str(finding.number),
                f'{finding.meaning}\n{text}'.strip(),
            )
    if found.rows:
        print_table(found)


@command
def main(args: Namespace) -> int:
    """Check and show what was found."""
    stray = sorted(set(args.allow) - set(KINDS))
    if stray:
        raise ValueError(
            f'--allow {stray[0]}: there is no such kind of problem; there are '
            f'{", ".join(sorted(KINDS))}.'
        )
    reports = check(args)
    show(reports, args.allow)
    problems = [f for r in reports for f in r.problems(args.allow)]
    if args.json:
        write_json(
            args.json,
            dict(
                ok=not problems,
                allowed=args.allow,
                sets=[report.as_dict() for report in reports],
            ),
        )
    if not problems:
        print('No problems.')
        return 0
    kinds = ', '.join(sorted({finding.kind for finding in problems}))
    plural = 'problem' if len(problems) == 1 else 'problems'
    print(f'{len(problems)} {plural}: {kinds}')
    return ExitCode.FINDINGS
