# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write COCO files of the open-vocabulary split (48 base, 17 novel classes).

The configs read the unchanged COCO files, so this is not needed to train. The
smaller files load faster, and other programs can use them.

Example:
    python tools/dataset_converters/coco2ov.py \
        data/coco/annotations/instances_train2017.json --split base
    python tools/dataset_converters/coco2ov.py \
        data/coco/annotations/instances_val2017.json --split all
"""

import argparse
import sys

from dito.datasets.coco_split import COCO_BASE_CLASSES, COCO_NOVEL_CLASSES
from dito.datasets.convert import convert_file


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Leave in a COCO file the classes of one split only.'
    )
    parser.add_argument('source', help='COCO annotation file')
    parser.add_argument(
        '--split',
        choices=('base', 'all'),
        required=True,
        help='base: 48 classes (training); all: 65 (evaluation)',
    )
    parser.add_argument(
        '--out', help='file to write (default: SOURCE with _ov_SPLIT.json)'
    )
    parser.add_argument(
        '--drop-empty',
        action='store_true',
        help='leave out images without any object of these classes',
    )
    return parser.parse_args()


def main() -> None:
    """Convert the file and print what is in it."""
    args = parse_args()
    stem = args.source.removesuffix('.json')
    target = args.out or f'{stem}_ov_{args.split}.json'
    try:
        counts = convert_file(
            args.source,
            target,
            split=args.split,
            classes=COCO_BASE_CLASSES + COCO_NOVEL_CLASSES,
            novel_classes=COCO_NOVEL_CLASSES,
            drop_empty=args.drop_empty,
        )
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(target, ', '.join(f'{n} {what}' for what, n in counts.items()))


if __name__ == '__main__':
    main()
