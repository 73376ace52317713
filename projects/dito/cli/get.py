# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The authors' detector, downloaded and converted."""

import sys
from argparse import Namespace

from dito.apis.official import (
    ADDRESS,
    ARCHIVES,
    PRETRAINED,
    fetch_archives,
    find_files,
    make_detector,
)
from dito.apis.published import OFFICIAL, dito_home
from dito.utils.download import Progress

from .foreign_weights import read_sizes
from .options import command


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


@command
def main(args: Namespace) -> int:
    """Download, unpack and convert."""
    address = (args.address or ADDRESS).rstrip('/') + '/'
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
            f'{files.tokenizer} --background-embeddings '
            f'{files.background} --names ... --out names.safetensors'
        )
    print(f'All of it is in {dito_home() / OFFICIAL}.')
    return 0
