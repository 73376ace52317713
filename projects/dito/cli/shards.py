# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tar shards of image-caption pairs: written, checked and described."""

import sys
from argparse import Namespace
from collections import Counter
from typing import Any

from rich.markup import escape
from rich.table import Table

from dito.datasets import shard_files
from dito.evaluation.report import print_table
from dito.utils.files import write_json
from dito.utils.printable import printable

from .errors import ExitCode
from .options import command

#: Pairs that are left out and named.
_MAX_NAMED = 5


@command
def pairs2shards(args: Namespace) -> int:
    """Write shards and say what was left out."""
    options = shard_files.ShardOptions(
        args.shard_size,
        args.prefix,
        None if args.keep_order else args.seed,
        args.max_side,
        args.quality,
        args.max_broken_share,
    )
    pairs = shard_files.read_pairs(
        args.source,
        image_column=args.image_column,
        caption_column=args.caption_column,
        root=args.images,
    )
    faults = [pair.fault for pair in pairs if pair.fault is not None]
    for reason, detail in faults[:_MAX_NAMED]:
        print(printable(f'left out: {reason}: {detail}'), file=sys.stderr)
    manifest = shard_files.write_shards(
        pairs,
        args.out_dir,
        options,
        workers=args.workers,
        overwrite=args.overwrite,
        report=print,
    )
    skipped = ', '.join(
        f'{number} {reason}' for reason, number in manifest['skipped'].items()
    )
    size = sum(shard['bytes'] for shard in manifest['shards'])
    print(
        f'{args.out_dir}: {manifest["samples"]} of {len(pairs)} pairs in '
        f'{len(manifest["shards"])} shards, {size / 1e6:.1f} MB'
        + (f'; left out: {skipped}' if skipped else '')
    )
    return 0


def show_problems(reports: list[dict[str, Any]]) -> None:
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
def check_shards(args: Namespace) -> int:
    """Check and show what was found."""
    reports = shard_files.check_shards(
        args.shards,
        manifest=args.manifest,
        decode=not args.no_decode,
        captions=args.captions,
        workers=args.workers,
    )
    show_problems(reports)
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
            f'{samples} samples in {len(reports)} '
            f'shard{"s" if len(reports) > 1 else ""}: '
            f'{listed or "no problems"}'
        )
    )
    return ExitCode.FINDINGS if problems else ExitCode.RIGHT


_SUMMARIES = dict(
    caption_words='caption, words',
    caption_chars='caption, characters',
    width='width, pixels',
    height='height, pixels',
    aspect='width / height',
    image_bytes='image, bytes',
)


def _number(value: float) -> str:
    """Four digits, and all of those before the point."""
    return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:,.4g}'


def show_figures(figures: dict[str, Any]) -> None:
    """Print the figures as tables."""
    columns = ('mean', 'min', 'p5', 'median', 'p95', 'max')
    table = Table('', *columns)
    for name, title in _SUMMARIES.items():
        if figures[name]:
            table.add_row(title, *(_number(figures[name][c]) for c in columns))
    print_table(table)
    total = max(1, sum(figures['shorter_side'].values()))
    sides = Table('shorter side, pixels', 'images', 'share')
    for name, number in figures['shorter_side'].items():
        sides.add_row(name, f'{number:,}', f'{number / total:.1%}')
    print_table(sides)
    counts = Table('', 'number')
    for name in (
        'shards',
        'samples',
        'duplicate_keys',
        'duplicate_captions',
        'total_image_bytes',
    ):
        counts.add_row(name.replace('_', ' '), f'{figures[name]:,}')
    for group in ('formats', 'problems'):
        for name, number in figures[group].items():
            counts.add_row(f'{group}: {name}', f'{number:,}')
    print_table(counts)


@command
def shard_stats(args: Namespace) -> int:
    """Describe the shards."""
    figures = shard_files.shard_statistics(
        args.shards, captions=args.captions, workers=args.workers
    )
    show_figures(figures)
    if args.json:
        write_json(args.json, figures)
    return 0
