# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Download the authors' detector and convert it for --checkpoint official.

What is there already is kept, and a download that broke off goes on. The
archives come to about 3 GB; the converted detector takes as much again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dito.apis.official import (
    ADDRESS,
    ARCHIVES,
    CONFIG,
    PRETRAINED,
    fetch_archives,
    find_files,
    make_detector,
)
from dito.apis.published import OFFICIAL, dito_home
from dito.utils.download import Progress

from .errors import one_sentence_errors
from .official_to_dito import read_sizes


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``dito get``."""
    parser = argparse.ArgumentParser(prog='dito get', description=__doc__)
    parser.add_argument(
        'what',
        choices=[OFFICIAL, 'pretrained'],
        help="official: the authors' detector; pretrained: their backbone "
        'and heads before detection training, for trainings of your own',
    )
    parser.add_argument(
        '--from',
        dest='source',
        metavar='DIR',
        type=Path,
        help='folder that has the archives already',
    )
    parser.add_argument(
        '--address',
        default=ADDRESS,
        help='where the archives are (default: %(default)s)',
    )
    parser.add_argument(
        '--lvis',
        metavar='FILE',
        help='annotations of LVIS v1, for the synonyms of its names',
    )
    parser.add_argument(
        '--config',
        default=CONFIG,
        help='config of the detector (default: %(default)s)',
    )
    parser.add_argument(
        '--sizes',
        nargs='+',
        default=[],
        metavar='NAME=NUMBER',
        help='sizes of a detector that is not ViT-L/16, as of '
        'official-to-dito',
    )
    parser.add_argument(
        '--accept-change',
        action='store_true',
        help='take archives that are not what they were when seen first',
    )
    parser.add_argument(
        '--debug', action='store_true', help='show tracebacks of errors'
    )
    return parser.parse_args(argv)


def bar(name: str) -> Progress:
    """Print the progress of a download: a line a tenth, or one that grows."""
    last = [-1]
    growing = sys.stdout.isatty()

    def show(have: int, size: int | None) -> None:
        part = int(100 * have / size) if size else have >> 27
        step = part if growing else part // 10
        if step == last[0]:
            return
        last[0] = step
        text = (
            f'{name}: {have / 1e6:,.0f} of {size / 1e6:,.0f} MB'
            if size
            else f'{name}: {have / 1e6:,.0f} MB'
        )
        end = '\n' if not growing or have == size else '\r'
        print(text, end=end, flush=True)

    return show


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Download, unpack and convert."""
    args = parse_args(argv)
    address = args.address.rstrip('/') + '/'
    if args.what == 'pretrained':
        (folder,) = fetch_archives(
            (PRETRAINED,), args.source, address, args.accept_change, bar
        )
        print(
            f'Unpacked into {folder}; "dito official-to-dito" converts '
            'the checkpoint in it (docs/official_weights.md).'
        )
        return 0
    sizes = read_sizes(args.sizes)
    files = find_files(
        fetch_archives(ARCHIVES, args.source, address, args.accept_change, bar)
    )
    for line in make_detector(files, args.lvis, args.config, sizes):
        print(line)
    print(
        'dito detect PHOTO --checkpoint official --names "dog, traffic '
        'light" finds what LVIS and COCO name.'
    )
    if files.text_model and files.tokenizer:
        print(
            'Other names, with TensorFlow and SentencePiece: dito '
            f'official-text-embeddings {files.text_model} --tokenizer '
            f'{files.tokenizer} --background {files.background} --names '
            '... --out names.safetensors'
        )
    print(f'All of it is in {dito_home() / OFFICIAL}.')
    return 0
