# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write an LVIS training file without the rare (novel) classes.

The configs read the unchanged LVIS files, so this is not needed to train. A
base-only file loads faster, and other programs can use it. With --categories
the names, synonyms and frequencies alone, to build vocabularies from.
"""

import argparse
from collections.abc import Sequence

from dito.datasets.convert import convert_file, write_categories

from .errors import one_sentence_errors


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Convert a file and print what is in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='LVIS annotation file')
    parser.add_argument(
        '--out',
        help='file to write (default: SOURCE with _base.json, or with '
        '_categories.json)',
    )
    parser.add_argument(
        '--drop-empty',
        action='store_true',
        help='leave out images without any object of a base class',
    )
    parser.add_argument(
        '--categories',
        action='store_true',
        help='write the metadata of all categories instead',
    )
    args = parser.parse_args(argv)
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
