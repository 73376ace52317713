# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
r"""Make the report of a quickstart again, or the picture of the README.

Examples:
  python tools/analysis_tools/make_report.py work_dirs/quickstart
  python tools/analysis_tools/make_report.py --figure figure.jpg \
      --checkpoint detector.pth --rep-checkpoint rep.pth
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dito.apis import TextSimilarity
from dito.cli.errors import one_sentence_errors
from dito.reports.figures import NUM_FIGURE, held_out_figure, quickstart_figure
from dito.reports.report import quickstart_report


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'quickstart_dir',
        type=Path,
        nargs='?',
        default=Path('work_dirs/quickstart'),
        help='work folder of the quickstart (default: %(default)s)',
    )
    parser.add_argument(
        '--data-root',
        type=Path,
        default=Path('data/symbols'),
        help='the data set (default: %(default)s)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        help='file to write (default: report.html in the work folder)',
    )
    parser.add_argument(
        '--figure',
        type=Path,
        metavar='PNG',
        help='write a picture instead of the report: detections in the first '
        'validation pictures with a novel object alone of its class, and '
        'maps of that object before and after stage 2',
    )
    parser.add_argument(
        '--checkpoint',
        help='detector of the picture (default: that of the '
        'quickstart); with --config if it holds none',
    )
    parser.add_argument('--config', help='config of --checkpoint')
    parser.add_argument(
        '--rep-checkpoint',
        help='result of stage 2, for the maps; without '
        'it --checkpoint alone gives a picture without maps',
    )
    parser.add_argument('--rep-config', help='config of --rep-checkpoint')
    parser.add_argument(
        '--count',
        type=int,
        default=NUM_FIGURE,
        help='pictures in the figure (default: %(default)s)',
    )
    parser.add_argument('--device', default='cpu', help='such as cuda')
    parser.add_argument(
        '--debug', action='store_true', help='show tracebacks of errors'
    )
    args = parser.parse_args(argv)
    given = (
        args.checkpoint,
        args.config,
        args.rep_checkpoint,
        args.rep_config,
    )
    if any(given) and not (args.figure and args.checkpoint):
        parser.error(
            '--config, --rep-checkpoint and --rep-config belong to '
            '--figure with --checkpoint; give both'
        )
    return args


def figure_of(args: argparse.Namespace) -> Path:
    """Write the picture of the checkpoints that were given."""
    from dito.apis import DITOInferencer

    maps = None
    if args.rep_checkpoint:
        maps = TextSimilarity.from_files(
            args.rep_config, args.rep_checkpoint, args.device
        )
    detector = DITOInferencer(args.config, args.checkpoint, device=args.device)
    return held_out_figure(
        detector, maps, args.data_root, args.figure, args.count
    )


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the report or the picture."""
    args = parse_args(argv)
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


if __name__ == '__main__':
    raise SystemExit(main())
