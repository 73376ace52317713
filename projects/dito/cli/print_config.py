# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Configs with all that they inherit."""

from argparse import Namespace

from . import common
from .options import command


@command
def main(args: Namespace) -> int:
    """Print or write the whole config."""
    cfg = common.load_config(args.config, args.cfg_options)
    print(cfg.pretty_text, end='')
    if args.out:
        cfg.dump(args.out)
    return 0
