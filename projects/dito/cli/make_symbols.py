# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The data set "symbols", drawn."""

import time
from argparse import Namespace

from dito.datasets.symbols import SymbolsConfig, build_symbols

from .options import command
from .options.data import SYMBOLS


@command
def main(args: Namespace) -> int:
    """Build the set and say what it holds."""
    start = time.perf_counter()
    cfg = SymbolsConfig(
        seed=args.seed,
        train_images=args.pictures[0],
        val_images=args.pictures[1],
        val_drawings_images=args.drawings,
        **{name: getattr(args, name) for name in SYMBOLS},
    )
    manifest = build_symbols(
        args.out_dir, cfg, args.workers, args.overwrite, report=print
    )
    seconds = time.perf_counter() - start
    pictures = sum(manifest['images'].values())
    print(
        f'{args.out_dir}: {manifest["categories"]["total"]} categories, '
        f'{pictures} pictures in {seconds:.0f} s '
        f'({60 * pictures / seconds:.0f} a minute)'
    )
    return 0
