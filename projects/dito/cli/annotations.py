# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Annotations of LVIS, COCO and Objects365 for open vocabularies."""

from argparse import Namespace

from dito.datasets import convert
from dito.datasets.ov_dataset import COCO_BASE_CLASSES, COCO_NOVEL_CLASSES

from .options import command


@command
def lvis2ov(args: Namespace) -> int:
    """Convert a file and print what is in it."""
    kind = 'categories' if args.categories else 'base'
    target = args.out or f'{args.source.removesuffix(".json")}_{kind}.json'
    if args.categories:
        found = convert.write_categories(args.source, target)
        print(
            target,
            f'{sum(found.values())} categories: {found["f"]} '
            f'frequent, {found["c"]} common, {found["r"]} rare',
        )
        return 0
    counts = convert.convert_file(
        args.source, target, split='base', drop_empty=args.drop_empty
    )
    print(target, ', '.join(f'{n} {what}' for what, n in counts.items()))
    return 0


@command
def coco2ov(args: Namespace) -> int:
    """Convert a file and print what is in it."""
    stem = args.source.removesuffix('.json')
    target = args.out or f'{stem}_ov_{args.classes}.json'
    counts = convert.convert_file(
        args.source,
        target,
        split=args.classes,
        classes=COCO_BASE_CLASSES + COCO_NOVEL_CLASSES,
        novel_classes=COCO_NOVEL_CLASSES,
        drop_empty=args.drop_empty,
    )
    print(target, ', '.join(f'{n} {what}' for what, n in counts.items()))
    return 0


@command
def fix_objects365(args: Namespace) -> int:
    """Repair a file and print what was renamed."""
    target = args.out or args.source.removesuffix('.json') + '_fixed.json'
    done = convert.fix_objects365(args.source, target)
    for old, new in done['renamed']:
        print(f'{old!r} -> {new!r}')
    print(
        target,
        f'{done["version"]}, {done["images"]} images, '
        f'{done["annotations"]} annotations, {done["categories"]} '
        f'categories, {len(done["renamed"])} renamed',
    )
    return 0
