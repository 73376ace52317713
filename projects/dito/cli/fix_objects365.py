# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Objects365 annotations with repaired names."""

from argparse import Namespace

from dito.datasets.convert import fix_objects365

from .options import command


@command
def main(args: Namespace) -> int:
    """Repair a file and print what was renamed."""
    target = args.out or args.source.removesuffix('.json') + '_fixed.json'
    done = fix_objects365(args.source, target)
    for old, new in done['renamed']:
        print(f'{old!r} -> {new!r}')
    print(
        target,
        f'{done["version"]}, {done["images"]} images, '
        f'{done["annotations"]} annotations, {done["categories"]} '
        f'categories, {len(done["renamed"])} renamed',
    )
    return 0
