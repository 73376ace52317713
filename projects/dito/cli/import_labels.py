# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write labels of other tools as annotations that a training reads.

Takes the unpacked exports of Ultralytics, Label Studio, Roboflow and CVAT:
yolo (YOLO, YOLO with images), voc (Pascal VOC), coco (COCO), and cvat ("CVAT
for images 1.1"). Roboflow's and Label Studio's own json is not read: export
one of these. What cannot be used is left out and counted. yolo and voc need
supervision, cvat needs datumaro: pip install "dito-mmdet[import]".
"""

import argparse
from collections.abc import Sequence

from dito.datasets.convert import count_entries
from dito.datasets.imports import KINDS, import_labels
from dito.utils.files import write_json
from dito.utils.printable import printable

from .errors import one_sentence_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``dito import``."""
    parser = argparse.ArgumentParser(prog='dito import', description=__doc__)
    parser.add_argument('kind', choices=list(KINDS), help='format of labels')
    parser.add_argument('folder', help='the unpacked export')
    parser.add_argument('out', help='.json file to write')
    parser.add_argument(
        '--split', help='train, valid, val or test, where there are several'
    )
    parser.add_argument(
        '--debug', action='store_true', help='show tracebacks of errors'
    )
    return parser.parse_args(argv)


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Read, write, and say what was left out."""
    args = parse_args(argv)
    found = import_labels(args.kind, args.folder, args.split)
    if not found.content['annotations']:
        raise ValueError(
            f'{args.folder} has no box that a training could use; left out: '
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
