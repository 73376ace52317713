# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write COCO files of the open-vocabulary split (48 base, 17 novel classes).

The configs read the unchanged COCO files, so this is not needed to train. The
smaller files load faster, and other programs can use them.
"""

import argparse
from collections.abc import Sequence

from dito.datasets.convert import convert_file
from dito.datasets.ov_dataset import COCO_BASE_CLASSES, COCO_NOVEL_CLASSES

from .errors import one_sentence_errors


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Convert a file and print what is in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='COCO annotation file')
    parser.add_argument(
        '--split',
        choices=('base', 'novel', 'all'),
        required=True,
        help='base: 48 classes (training); novel: 17; all: 65 (evaluation)',
    )
    parser.add_argument(
        '--out', help='file to write (default: SOURCE with _ov_SPLIT.json)'
    )
    parser.add_argument(
        '--drop-empty',
        action='store_true',
        help='leave out images without any object of these classes',
    )
    args = parser.parse_args(argv)
    stem = args.source.removesuffix('.json')
    target = args.out or f'{stem}_ov_{args.split}.json'
    counts = convert_file(
        args.source,
        target,
        split=args.split,
        classes=COCO_BASE_CLASSES + COCO_NOVEL_CLASSES,
        novel_classes=COCO_NOVEL_CLASSES,
        drop_empty=args.drop_empty,
    )
    print(target, ', '.join(f'{n} {what}' for what, n in counts.items()))
    return 0
