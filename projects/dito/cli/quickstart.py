# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Run the three stages' whole chain on the embedded data set."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dito.reports.quickstart import Plan, run_quickstart

from .errors import one_sentence_errors

# From the shipped result of stage 2, and from the tower alone.
REP_ITERS, TOWER_ITERS = 150, 450
DET_ITERS = 200


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/quickstart.py``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path('work_dirs/quickstart'),
        help='folder for checkpoints, logs, metrics.json and report.html; '
        'an earlier quickstart in it is replaced',
    )
    parser.add_argument(
        '--from-tower',
        action='store_true',
        help='train stage 2 from the tower of stage 1 alone; by default it '
        'goes on from the shipped result of a long stage 2',
    )
    parser.add_argument(
        '--rep-iters',
        type=int,
        help='iterations of region-centric pretraining (default: '
        f'{REP_ITERS}; with --from-tower {TOWER_ITERS})',
    )
    parser.add_argument(
        '--det-iters',
        type=int,
        default=DET_ITERS,
        help='iterations of detection finetuning',
    )
    parser.add_argument(
        '--device', default='cpu', help="device for the report's pictures"
    )
    args = parser.parse_args(argv)
    if args.rep_iters is None:
        args.rep_iters = TOWER_ITERS if args.from_tower else REP_ITERS
    for name in ('rep_iters', 'det_iters'):
        if getattr(args, name) < 1:
            parser.error(
                f'--{name.replace("_", "-")} must be at least 1, '
                f'got {getattr(args, name)}'
            )
    return args


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the quickstart."""
    args = parse_args(argv)
    run_quickstart(
        Plan(
            args.work_dir,
            args.rep_iters,
            args.det_iters,
            from_tower=args.from_tower,
        ),
        args.device,
    )
    return 0
