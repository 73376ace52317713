# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Print a config with everything it inherits and every override."""

import argparse
from collections.abc import Sequence

from . import common
from .errors import one_sentence_errors


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print or write the whole config."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_config_arguments(parser)
    parser.add_argument(
        '--save-path', help='write it here too (.py, .yml or .json)'
    )
    args = parser.parse_args(argv)
    if args.save_path and not args.save_path.endswith(
        ('.py', '.yml', '.yaml', '.json')
    ):
        parser.error(
            f'--save-path must end in .py, .yml or .json, got {args.save_path}'
        )
    cfg = common.load_config(args.config, args.cfg_options)
    print(cfg.pretty_text, end='')
    if args.save_path:
        cfg.dump(args.save_path)
    return 0
