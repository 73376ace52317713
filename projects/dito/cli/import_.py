# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Labels of other tools, in the format of COCO."""

from argparse import Namespace

from dito.datasets.convert import count_entries
from dito.datasets.imports import import_labels
from dito.utils.files import write_json
from dito.utils.printable import printable

from .options import command


@command
def main(args: Namespace) -> int:
    """Read, write, and say what was left out."""
    found = import_labels(args.kind, args.source, args.split)
    if not found.content['annotations']:
        raise ValueError(
            f'{args.source} has no box that a training could use; left out: '
            f'{dict(found.dropped) or "nothing"}.'
        )
    write_json(args.out, found.content)
    counts = count_entries(found.content)
    print(args.out, ', '.join(f'{n} {what}' for what, n in counts.items()))
    for what, number in found.dropped.items():
        print(printable(f'left out: {number} {what}'))
    print(
        f'dito check-dataset --data {args.out} --images {found.images} '
        'looks at the result.'
    )
    return 0
