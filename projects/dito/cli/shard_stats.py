# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What image-text shards hold."""

from argparse import Namespace
from typing import Any

from rich.table import Table

from dito.datasets.shard_files import shard_statistics
from dito.evaluation.report import print_table
from dito.utils.files import write_json

from .options import command

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


def show(figures: dict[str, Any]) -> None:
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
def main(args: Namespace) -> int:
    """Describe the shards."""
    figures = shard_statistics(
        args.shards, captions=args.captions, workers=args.workers
    )
    show(figures)
    if args.json:
        write_json(args.json, figures)
    return 0
