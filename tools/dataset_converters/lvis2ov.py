# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write an LVIS training file without the rare (novel) classes.

The configs read the unchanged LVIS files, so this is not needed to train. A
base-only file loads faster, and other programs can use it.

Example:
    python tools/dataset_converters/lvis2ov.py \
        data/lvis_v1/annotations/lvis_v1_train.json
"""

import argparse
import sys

from dito.datasets.convert import convert_file


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Leave the rare classes out of an LVIS annotation file.'
    )
    parser.add_argument('source', help='LVIS annotation file')
    parser.add_argument(
        '--out', help='file to write (default: SOURCE with _base.json)'
    )
    parser.add_argument(
        '--drop-empty',
        action='store_true',
        help='leave out images without any object of a base class',
    )
    return parser.parse_args()


def main() -> None:
    """Convert the file and print what is in it."""
    args = parse_args()
    target = args.out or args.source.removesuffix('.json') + '_base.json'
    try:
        counts = convert_file(
            args.source, target, split='base', drop_empty=args.drop_empty
        )
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(target, ', '.join(f'{n} {what}' for what, n in counts.items()))


if __name__ == '__main__':
    main()
