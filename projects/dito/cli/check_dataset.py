# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Check the data sets of a config before anything is trained or tested.

Compares classes and annotation files by name, counts base, novel and unknown
classes, looks for contradictions in the files and for missing or broken
images. Exits with 1 if there is a problem.
"""

import argparse
import os
from collections.abc import Sequence

from mmengine.config import DictAction
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
from .errors import one_sentence_errors

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


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/misc/check_dataset.py``."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'config',
        nargs='?',
        help="config file, or the name of one of DITO's configs",
    )
    parser.add_argument(
        '--data', help='instead of a config: one annotation file'
    )
    parser.add_argument('--images', help='its folder of images')
    parser.add_argument(
        '--max-images',
        type=int,
        help='images of each set to decode (default: all; 0: none); that '
        'they exist is checked of all',
    )
    parser.add_argument(
        '--allow',
        nargs='+',
        default=[],
        choices=sorted(KINDS),
        metavar='KIND',
        help='problems that are known and shall only be counted, such as '
        'zero_area_box',
    )
    parser.add_argument('--json', help='write the findings to this file too')
    parser.add_argument(
        '--workers',
        type=int,
        default=min(8, os.cpu_count() or 1),
        help='threads that decode images',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings to override, as key=value',
    )
    parser.add_argument(
        '--debug', action='store_true', help='show the traceback of errors'
    )
    args = parser.parse_args(argv)
    if (args.config is None) == (args.data is None):
        parser.error('give a config, or --data and --images')
    if (args.data is None) != (args.images is None):
        parser.error('--data and --images go together')
    return args


def check(args: argparse.Namespace) -> list[SetReport]:
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


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Check, as ``tools/misc/check_dataset.py`` is told to."""
    args = parse_args(argv)
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
    return 1
