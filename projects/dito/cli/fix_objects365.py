# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Repair category names and order of an Objects365 annotation file.

The data set of the configs reads the published files and repairs names while
loading, so this is needed for other programs only.
"""

import argparse
from collections.abc import Sequence

from dito.datasets.convert import fix_objects365

from .errors import one_sentence_errors


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Repair a file and print what was renamed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='annotation file of v1 or v2')
    parser.add_argument(
        '--out', help='file to write (default: SOURCE with _fixed.json)'
    )
    args = parser.parse_args(argv)
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
