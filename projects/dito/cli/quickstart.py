# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Run the three stages' whole chain on the embedded data set."""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from dito.quickstart import run_quickstart
from dito.quickstart.stages import Plan

from .errors import one_sentence_errors

REP_ITERS = 450
DET_ITERS = 200


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line of ``tools/quickstart.py``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path('work_dirs/quickstart'),
        help='folder for checkpoints, logs, metrics.json and report.html; '
        'an earlier quickstart in it is replaced')
    parser.add_argument(
        '--rep-iters',
        type=int,
        default=REP_ITERS,
        help='iterations of region-centric pretraining')
    parser.add_argument(
        '--det-iters',
        type=int,
        default=DET_ITERS,
        help='iterations of detection finetuning')
    parser.add_argument(
        '--device', default='cpu', help="device for the report's pictures")
    args = parser.parse_args(argv)
    for name in ('rep_iters', 'det_iters'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, '
                         f'got {getattr(args, name)}')
    return args


@one_sentence_errors
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the quickstart."""
    args = parse_args(argv)
    run_quickstart(
        Plan(args.work_dir, args.rep_iters, args.det_iters), args.device)
    return 0
