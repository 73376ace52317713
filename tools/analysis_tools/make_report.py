# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Make the report of a quickstart again, or the picture of the README.

Example: python tools/analysis_tools/make_report.py work_dirs/quickstart
"""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from dito.cli.errors import one_sentence_errors
from dito.visualization import quickstart_figure, quickstart_report


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'quickstart_dir', type=Path, help='work folder of the quickstart')
    parser.add_argument(
        '--data-root', type=Path, default=Path('data/symbols'),
        help='the data set (default: %(default)s)')
    parser.add_argument(
        '--out', type=Path, help='file to write (default: report.html in the '
        'work folder)')
    parser.add_argument(
        '--figure', type=Path, metavar='PNG',
        help='write this picture instead of the report')
    parser.add_argument('--device', default='cpu', help='such as cuda')
    parser.add_argument(
        '--debug', action='store_true', help='show tracebacks of errors')
    return parser.parse_args(argv)


@one_sentence_errors
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Write the report or the picture."""
    args = parse_args(argv)
    if args.figure:
        path = quickstart_figure(args.quickstart_dir, args.data_root,
                                 args.figure, args.device)
    else:
        path = quickstart_report(args.quickstart_dir, args.data_root,
                                 args.device, args.out)
    print(f'{path} is written.')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
