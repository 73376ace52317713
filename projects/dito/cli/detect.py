# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Find named objects in pictures; write what was found."""

import argparse
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

from dito.apis import DITOInferencer, parse_names
from dito.utils.printable import printable

from .errors import one_sentence_errors

# Here tools/quickstart.py trains its detector.
QUICKSTART = Path('work_dirs/quickstart/dito')

# With fewer names a detector has hardly a choice.
FEW_NAMES = 5


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line of ``tools/detect.py``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('image', nargs='+', help='image files, or folders')
    parser.add_argument(
        '--names',
        required=True,
        help='what to look for: "red umbrella, anchor"; a file of names '
        '(.txt with a name a line, .names, .json, .yaml, .pbtxt); or a '
        'vocabulary file')
    parser.add_argument(
        '--negative-names',
        metavar='NAMES',
        help='what else there may be, in the forms of --names, or "trained" '
        'for the classes the detector was trained on: not looked for, but '
        'nothing of it is taken for one of --names')
    parser.add_argument(
        '--config',
        help="config file, or the name of one of DITO's configs; not needed "
        'for a checkpoint that holds its config')
    parser.add_argument(
        '--checkpoint',
        help=f'.pth or .safetensors file (default: the last in {QUICKSTART}, '
        'which "make quickstart" trains)')
    parser.add_argument(
        '--out-dir',
        default='outputs',
        help='folder for pictures (vis/) and results (preds/)')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='least score of what is written (default: %(default)s)')
    parser.add_argument(
        '--agnostic-nms',
        type=float,
        metavar='IOU',
        help='of detections that overlap by more keep only the best, '
        'whatever their names (0.5 gives one name an object)')
    parser.add_argument('--device', help='cpu, cuda, cuda:1 ...')
    parser.add_argument(
        '--list-top-k',
        type=int,
        default=0,
        metavar='K',
        help='print the K best of each image, whatever their score')
    parser.add_argument(
        '--debug',
        action='store_true',
        help='show the traceback of errors in the given values too')
    return parser.parse_args(argv)


def model_source(config: Optional[str],
                 checkpoint: Optional[str]) -> Tuple[Optional[str], str]:
    """Config and weights to use.

    Raises:
        FileNotFoundError: If none are given and the quickstart has not run.
        ValueError: If there is a config without weights.
    """
    if checkpoint is not None:
        return config, checkpoint
    if config is not None:
        raise ValueError(f'--config {config} needs --checkpoint too; a '
                         'detector without trained weights finds nothing.')
    record = QUICKSTART / 'last_checkpoint'
    if not record.is_file():
        raise FileNotFoundError(
            f'There is no detector in {QUICKSTART} yet; run "make quickstart" '
            'first, or give --checkpoint.')
    return None, str(QUICKSTART / Path(record.read_text().strip()).name)


def format_rows(result: Dict[str, Any], limit: int) -> str:
    """The first detections of an image, one a line."""
    rows = zip(result['scores'], result['names'], result['bboxes'],
               strict=True)
    lines = []
    for _, (score, name, box) in zip(range(limit), rows, strict=False):
        corners = ', '.join(f'{value:.0f}' for value in box)
        lines.append(f'  {score:.3f}  {name}  ({corners})')
    return '\n'.join(lines)


def report(image: str, result: Dict[str, Any], score_thr: float,
           top_k: int) -> str:
    """Say what was found in an image.

    Args:
        image (str): Its path.
        result (dict): All detections, best first.
        score_thr (float): Least score that counts as found.
        top_k (int): Lines to print whatever their score.

    Returns:
        str: A line with the count, then detections.
    """
    count = sum(score >= score_thr for score in result['scores'])
    text = f'{image}: {count} found with a score of {score_thr} or more'
    shown = max(top_k, count)
    if not shown and result['scores']:
        text += f'; the best has {result["scores"][0]:.3f}'
    rows = format_rows(result, shown)
    return f'{text}\n{rows}' if rows else text


@one_sentence_errors
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Detect, as ``tools/detect.py`` is told to."""
    args = parse_args(argv)
    parse_names(args.names)  # A slip is told before anything loads.
    if args.negative_names not in (None, 'trained'):
        parse_names(args.negative_names)
    config, weights = model_source(args.config, args.checkpoint)
    inferencer = DITOInferencer(config, weights, args.names, args.device,
                                args.negative_names)
    count = len(inferencer.vocabulary)
    if count < FEW_NAMES and args.negative_names is None:
        print(f'Note: every object is taken for one of {count} names or for '
              'background; --negative-names trained lets others compete.')
    images = [
        path for item in args.image for path in inferencer.list_images(item)
    ]
    results = inferencer(
        images, score_thr=args.score_thr, out_dir=args.out_dir,
        agnostic_nms=args.agnostic_nms, return_all=True)
    for image, result in zip(images, results['predictions'], strict=True):
        print(printable(
            report(image, result, args.score_thr, args.list_top_k)))
    print(f'Pictures and results are in {args.out_dir}.')
    return 0
