# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Annotations for open vocabularies, and those of other tools."""

from argparse import Namespace

from dito.datasets import convert
from dito.datasets.imports import import_labels
from dito.datasets.ov_dataset import COCO_BASE_CLASSES, COCO_NOVEL_CLASSES
from dito.utils.files import write_json
from dito.utils.printable import printable

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


@command
def import_(args: Namespace) -> int:
    """Read, write, and say what was left out."""
    found = import_labels(args.kind, args.source, args.split)
    if not found.content['annotations']:
        raise ValueError(
            f'{args.source} has no box that a training could use; left out: '
            f'{dict(found.dropped) or "nothing"}.'
        )
    write_json(args.out, found.content)
    counts = convert.count_entries(found.content)
    print(args.out, ', '.join(f'{n} {what}' for what, n in counts.items()))
    for what, number in found.dropped.items():
        print(printable(f'left out: {number} {what}'))
    print(
        f'dito check-dataset --data {args.out} --images {found.images} '
        'looks at the result.'
    )
    return 0
