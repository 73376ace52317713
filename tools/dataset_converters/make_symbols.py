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


# Fields of SymbolsConfig that are options of their names.
NUMBERS = dict(
    size='side of the detection pictures in pixels',
    single_shards='image-text shards with one object a picture',
    scene_shards='image-text shards with several objects a picture',
    lone_shards='image-text shards with one object somewhere in a scene',
    shard_size='samples a shard',
    single_size='side of the single-object pictures in pixels',
    scene_size='side of the image-text scenes in pixels',
    retrieval_images='held-out image-text pairs',
    zero_shot_images='held-out single objects a category, and of held-out '
    'drawings',
)


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
    for name, text in NUMBERS.items():
        option = f'--{name.replace("_", "-")}'
        add(option, type=int, default=getattr(DEFAULT, name), help=text)
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
            **{name: getattr(args, name) for name in NUMBERS},
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
