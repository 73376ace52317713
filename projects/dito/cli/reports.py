# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The whole chain on the data set "symbols", its report and its pictures."""

from argparse import Namespace
from pathlib import Path

from dito.apis import DITOInferencer, TextSimilarity
from dito.reports.figures import held_out_figure, quickstart_figure
from dito.reports.quickstart import Plan, run_quickstart
from dito.reports.report import quickstart_report

from . import common
from .options import command
from .options.running import REP_ITERS, TOWER_ITERS


@command
def quickstart(args: Namespace) -> int:
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


def figure_of(args: Namespace) -> Path:
    """Write the picture of the checkpoints that were given."""
    maps = None
    if args.rep_checkpoint:
        maps = TextSimilarity.from_files(
            args.rep_config, args.rep_checkpoint, args.device
        )
    detector = DITOInferencer(args.config, args.checkpoint, device=args.device)
    return held_out_figure(
        detector, maps, args.data_root, args.figure, args.count
    )


@command
def make_report(args: Namespace) -> int:
    """Write the report or the picture."""
    args.device = common.device_of(args)
    if args.checkpoint:
        path = figure_of(args)
    elif args.figure:
        path = quickstart_figure(
            args.quickstart_dir,
            args.data_root,
            args.figure,
            args.device,
            args.count,
        )
    else:
        path = quickstart_report(
            args.quickstart_dir, args.data_root, args.device, args.out
        )
    print(f'{path} is written.')
    return 0
