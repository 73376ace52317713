# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tar shards of image-caption pairs."""

import sys
from argparse import Namespace

from dito.datasets.shard_files import ShardOptions, read_pairs, write_shards
from dito.utils.printable import printable

from .options import command

_MAX_NAMED = 5


@command
def main(args: Namespace) -> int:
    """Write shards and say what was left out."""
    options = ShardOptions(
        args.shard_size,
        args.prefix,
        None if args.keep_order else args.seed,
        args.max_side,
        args.quality,
        args.max_broken_share,
    )
    pairs = read_pairs(
        args.source,
        image_column=args.image_column,
        caption_column=args.caption_column,
        root=args.images,
    )
    faults = [pair.fault for pair in pairs if pair.fault is not None]
    for reason, detail in faults[:_MAX_NAMED]:
        print(printable(f'left out: {reason}: {detail}'), file=sys.stderr)
    manifest = write_shards(
        pairs,
        args.out_dir,
        options,
        workers=args.workers,
        overwrite=args.overwrite,
        report=print,
    )
    skipped = ', '.join(
        f'{number} {reason}' for reason, number in manifest['skipped'].items()
    )
    size = sum(shard['bytes'] for shard in manifest['shards'])
    print(
        f'{args.out_dir}: {manifest["samples"]} of {len(pairs)} pairs in '
        f'{len(manifest["shards"])} shards, {size / 1e6:.1f} MB'
        + (f'; left out: {skipped}' if skipped else '')
    )
    return 0
