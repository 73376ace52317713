# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""COCO annotations of the open-vocabulary split."""

from argparse import Namespace

from dito.datasets.convert import convert_file
from dito.datasets.ov_dataset import COCO_BASE_CLASSES, COCO_NOVEL_CLASSES

from .options import command


@command
def main(args: Namespace) -> int:
    """Convert a file and print what is in it."""
    stem = args.source.removesuffix('.json')
    target = args.out or f'{stem}_ov_{args.classes}.json'
    counts = convert_file(
        args.source,
        target,
        split=args.classes,
        classes=COCO_BASE_CLASSES + COCO_NOVEL_CLASSES,
        novel_classes=COCO_NOVEL_CLASSES,
        drop_empty=args.drop_empty,
    )
    print(target, ', '.join(f'{n} {what}' for what, n in counts.items()))
    return 0
