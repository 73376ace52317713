# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The whole chain on the data set "symbols"."""

from argparse import Namespace

from dito.reports.quickstart import Plan, run_quickstart

from . import common
from .options import command
from .options.running import REP_ITERS, TOWER_ITERS


@command
def main(args: Namespace) -> int:
    """Run the quickstart."""
    rep_iters = TOWER_ITERS if args.from_tower else REP_ITERS
    run_quickstart(
        Plan(
            args.work_dir,
            args.rep_iters or rep_iters,
            args.det_iters,
            from_tower=args.from_tower,
        ),
        common.device_of(args),
    )
    return 0
