# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""LVIS annotations without rare classes, or their names alone."""

from argparse import Namespace

from dito.datasets.convert import convert_file, write_categories

from .options import command


@command
def main(args: Namespace) -> int:
    """Convert a file and print what is in it."""
    kind = 'categories' if args.categories else 'base'
    target = args.out or f'{args.source.removesuffix(".json")}_{kind}.json'
    if args.categories:
        found = write_categories(args.source, target)
        print(
            target,
            f'{sum(found.values())} categories: {found["f"]} '
            f'frequent, {found["c"]} common, {found["r"]} rare',
        )
        return 0
    counts = convert_file(
        args.source, target, split='base', drop_empty=args.drop_empty
    )
    print(target, ', '.join(f'{n} {what}' for what, n in counts.items()))
    return 0
