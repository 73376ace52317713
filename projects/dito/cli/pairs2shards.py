# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
r"""Write image-caption pairs to tar shards for pretraining.

The pairs are a folder of images with a text file beside each, or a table
(.csv, .tsv, .jsonl, .parquet) with columns of paths and captions; further
columns go into each sample's json. Examples::

    python tools/dataset_converters/pairs2shards.py photos/ --out data/mine
    python tools/dataset_converters/pairs2shards.py pairs.csv --out data/mine \
        --image-column file --caption-column text --max-side 512
"""

import argparse
import os
import sys
from collections.abc import Sequence

from dito.datasets.shard_files import ShardOptions, read_pairs, write_shards
from dito.utils.printable import printable

from .errors import one_sentence_errors

DEFAULT = ShardOptions()
_MAX_NAMED = 5


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse ``tools/dataset_converters/pairs2shards.py``'s command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('source', help='folder of images and texts, or table of pairs')
    add('--out', required=True, help='folder for shards and manifest.json')
    add(
        '--image-column',
        default='path',
        help="column of the images' paths (default: path)",
    )
    add(
        '--caption-column',
        default='caption',
        help='column of the captions (default: caption)',
    )
    add(
        '--root',
        help='what the paths of a table are relative to (default: '
        'the folder of the table)',
    )
    add(
        '--shard-size',
        type=int,
        default=DEFAULT.shard_size,
        help=f'pairs a shard (default: {DEFAULT.shard_size})',
    )
    add('--prefix', default='', help='first part of the file names')
    add(
        '--seed',
        type=int,
        default=DEFAULT.seed,
        help=f'seed of the order (default: {DEFAULT.seed})',
    )
    add(
        '--keep-order',
        action='store_true',
        help="keep the table's order; then similar pairs share batches",
    )
    add(
        '--max-side',
        type=int,
        help='shrink images whose shorter side is longer, in pixels; all '
        'others are kept byte for byte',
    )
    add(
        '--quality',
        type=int,
        default=DEFAULT.quality,
        help='of JPEGs that are encoded anew (default: %(default)s)',
    )
    add(
        '--max-broken-share',
        type=float,
        default=DEFAULT.max_broken_share,
        help='share of unusable pairs that is an error (default: %(default)s)',
    )
    add(
        '--workers',
        type=int,
        default=os.cpu_count() or 1,
        help='processes; the result does not depend on it',
    )
    add('--overwrite', action='store_true', help='replace an earlier set')
    add('--debug', action='store_true', help='show the traceback of errors')
    return parser.parse_args(argv)


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write shards, as ``pairs2shards.py`` is told to."""
    args = parse_args(argv)
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
        root=args.root,
    )
    faults = [pair.fault for pair in pairs if pair.fault is not None]
    for reason, detail in faults[:_MAX_NAMED]:
        print(printable(f'left out: {reason}: {detail}'), file=sys.stderr)
    manifest = write_shards(
        pairs,
        args.out,
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
        f'{args.out}: {manifest["samples"]} of {len(pairs)} pairs in '
        f'{len(manifest["shards"])} shards, {size / 1e6:.1f} MB'
        + (f'; left out: {skipped}' if skipped else '')
    )
    return 0
