# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Draw the embedded data set ``symbols`` (no download).

Example:
    python tools/dataset_converters/make_symbols.py --out data/symbols
"""

import argparse
import os
import sys
import time

from dito.datasets.symbols import SymbolsConfig, build_symbols

DEFAULT = SymbolsConfig()


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Draw the embedded open-vocabulary data set "symbols": '
        'LVIS-format detection, image-text shards, zero-shot test pictures.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('--out', required=True, help='folder to make, e.g. data/symbols')
    add('--seed', type=int, default=DEFAULT.seed, help='seed of the set')
    add(
        '--images',
        type=int,
        nargs=2,
        metavar=('TRAIN', 'VAL'),
        default=(DEFAULT.train_images, DEFAULT.val_images),
        help='number of detection pictures',
    )
    add(
        '--drawings-images',
        type=int,
        default=DEFAULT.val_drawings_images,
        help='detection pictures of known names in held-out drawings',
    )
    add(
        '--size',
        type=int,
        default=DEFAULT.size,
        help='side of the detection pictures in pixels',
    )
    add(
        '--single-shards',
        type=int,
        default=DEFAULT.single_shards,
        help='image-text shards with one object a picture',
    )
    add(
        '--scene-shards',
        type=int,
        default=DEFAULT.scene_shards,
        help='image-text shards with several objects a picture',
    )
    add(
        '--lone-shards',
        type=int,
        default=DEFAULT.lone_shards,
        help='image-text shards with one object somewhere in a scene',
    )
    add(
        '--shard-size',
        type=int,
        default=DEFAULT.shard_size,
        help='samples a shard',
    )
    add(
        '--single-size',
        type=int,
        default=DEFAULT.single_size,
        help='side of the single-object pictures in pixels',
    )
    add(
        '--scene-size',
        type=int,
        default=DEFAULT.scene_size,
        help='side of the image-text scenes in pixels',
    )
    add(
        '--retrieval-images',
        type=int,
        default=DEFAULT.retrieval_images,
        help='held-out image-text pairs',
    )
    add(
        '--zero-shot-images',
        type=int,
        default=DEFAULT.zero_shot_images,
        help='held-out single objects a category, and of held-out drawings',
    )
    add(
        '--workers',
        type=int,
        default=os.cpu_count() or 1,
        help='processes; the result does not depend on it',
    )
    add(
        '--overwrite',
        action='store_true',
        help='replace an earlier build in the same folder',
    )
    return parser.parse_args()


def main() -> None:
    """Build the set and say what it holds."""
    args = parse_args()
    start = time.perf_counter()
    try:
        cfg = SymbolsConfig(
            seed=args.seed,
            train_images=args.images[0],
            val_images=args.images[1],
            val_drawings_images=args.drawings_images,
            size=args.size,
            single_shards=args.single_shards,
            scene_shards=args.scene_shards,
            lone_shards=args.lone_shards,
            shard_size=args.shard_size,
            retrieval_images=args.retrieval_images,
            zero_shot_images=args.zero_shot_images,
            single_size=args.single_size,
            scene_size=args.scene_size,
        )
        manifest = build_symbols(
            args.out, cfg, args.workers, args.overwrite, report=print
        )
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    seconds = time.perf_counter() - start
    pictures = sum(manifest['images'].values())
    print(
        f'{args.out}: {manifest["categories"]["total"]} categories, '
        f'{pictures} pictures in {seconds:.0f} s '
        f'({60 * pictures / seconds:.0f} a minute)'
    )


if __name__ == '__main__':
    main()
