# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Find named objects in pictures; write what was found."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dito.apis import DITOInferencer, parse_names
from dito.apis.results import Detections, to_coco, to_dict
from dito.utils.configs import config_root
from dito.utils.files import write_json
from dito.utils.printable import printable

from .errors import USER_ERROR, one_sentence_errors

# The detector that comes with the package, a published folder.
SHIPPED = Path('symbols/assets/dito_symbols')

# With fewer names a detector has hardly a choice.
FEW_NAMES = 5

# Exit code where some of the images could not be read and the others were.
SOME_BROKEN = 3


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/detect.py``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'image', nargs='+', help='image files, addresses, or folders'
    )
    parser.add_argument(
        '--names',
        required=True,
        help='what to look for: "red umbrella, anchor"; a file of names '
        '(.txt with a name a line, .names, .json, .yaml, .pbtxt); or a '
        'vocabulary file',
    )
    parser.add_argument(
        '--negative-names',
        metavar='NAMES',
        help='what else there may be, in the forms of --names, or "trained" '
        'for the classes the detector was trained on: not looked for, but '
        'nothing of it is taken for one of --names',
    )
    parser.add_argument(
        '--config',
        help="config file, or the name of one of DITO's configs; not needed "
        'for a checkpoint that holds its config',
    )
    parser.add_argument(
        '--checkpoint',
        help='.pth or .safetensors file, a published folder, "owner/name" on '
        'the Hugging Face hub, or "official" (default: the shipped detector, '
        'which knows drawn symbols only)',
    )
    parser.add_argument(
        '--out-dir',
        default='outputs',
        help='folder for pictures (vis/) and results (preds/)',
    )
    parser.add_argument(
        '--save-json',
        metavar='FILE',
        help="write what was found in all images to one file in COCO's "
        'format, with names, image files and sizes',
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='least score of what is written (default: %(default)s)',
    )
    parser.add_argument(
        '--agnostic-nms',
        type=float,
        metavar='IOU',
        help='of detections that overlap by more keep only the best, '
        'whatever their names (0.5 gives one name an object)',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1 ...')
    parser.add_argument(
        '--list-top-k',
        type=int,
        metavar='K',
        help='print the K best of each image, whatever their score, instead '
        'of those of --score-thr or more',
    )
    parser.add_argument(
        '--debug',
        action='store_true',
        help='show the traceback of errors in the given values too',
    )
    return parser.parse_args(argv)


def model_source(
    config: str | None, checkpoint: str | None
) -> tuple[str | None, str]:
    """Config and weights to use.

    Returns:
        tuple: Config file or None; weights as :class:`DITOInferencer` takes
        them.

    Raises:
        FileNotFoundError: If the package lacks the shipped detector.
        ValueError: If there is a config without weights.
    """
    if checkpoint is None:
        if config is not None:
            raise ValueError(
                f'--config {config} needs --checkpoint too; a '
                'detector without trained weights finds nothing.'
            )
        checkpoint = str(config_root() / SHIPPED)
        print(
            'Note: the shipped detector has seen drawings only, the 198 '
            'things of the data set "symbols". Photographs need '
            '--checkpoint: "official" after "dito get official", or one '
            'of your own training; docs/routes.md has the ways.'
        )
    return config, checkpoint


def format_rows(result: dict[str, Any], limit: int) -> str:
    """The first detections of an image, one a line."""
    rows = zip(
        result['scores'], result['names'], result['bboxes'], strict=True
    )
    lines = []
    for _, (score, name, box) in zip(range(limit), rows, strict=False):
        corners = ', '.join(f'{value:.0f}' for value in box)
        lines.append(f'  {score:.3f}  {name}  ({corners})')
    return '\n'.join(lines)


def report(
    image: str,
    result: dict[str, Any],
    score_thr: float,
    top_k: int | None,
    negative: int = 0,
) -> str:
    """Say what was found in an image.

    Args:
        image (str): Its path.
        result (dict): All detections, best first.
        score_thr (float): Least score that counts as found.
        top_k (int, optional): Lines to print, whatever their score; None
            prints what was found.
        negative (int): Detections that went to negative names.

    Returns:
        str: A line with the count, then detections.
    """
    scores = result['scores']
    count = sum(score >= score_thr for score in scores)
    text = f'{image}: {count} found with a score of {score_thr} or more'
    shown = count if top_k is None else top_k
    if not shown and scores:
        text += f'; the best has {scores[0]:.3f}'
    if shown > len(scores):
        boxes = f'{len(scores) + negative} boxes'
        text += (
            f'; of the best {boxes} {negative} went to negative names'
            if negative
            else f'; there are {boxes} in all'
        )
    rows = format_rows(result, shown)
    return f'{text}\n{rows}' if rows else text


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Detect, as ``tools/detect.py`` is told to."""
    args = parse_args(argv)
    if args.list_top_k is not None and args.list_top_k < 1:
        raise ValueError(
            '--list-top-k is a number of lines from 1 on, got '
            f'{args.list_top_k}.'
        )
    parse_names(args.names)  # Errors in names come before anything loads.
    if args.negative_names not in (None, 'trained'):
        parse_names(args.negative_names)
    config, weights = model_source(args.config, args.checkpoint)
    inferencer = DITOInferencer(
        config, weights, args.names, args.device, args.negative_names
    )
    count = len(inferencer.vocabulary)
    if count < FEW_NAMES and args.negative_names is None:
        print(
            f'Note: every object is taken for one of {count} names or for '
            'background; --negative-names trained lets others compete.'
        )
    images = [
        path for item in args.image for path in inferencer.list_images(item)
    ]
    broken = []
    kept: list[tuple[str, tuple[int, int], dict[str, Any]]] = []
    for image, found in zip(
        images,
        inferencer.stream(
            images,
            score_thr=args.score_thr,
            out_dir=args.out_dir,
            agnostic_nms=args.agnostic_nms,
            on_error='collect',
        ),
        strict=True,
    ):
        if found.error is not None:
            broken.append(found.error)
            continue
        if args.save_json:
            kept.append((image, found.shape, found.result))
        print(
            printable(
                report(
                    image,
                    plain_result(found),
                    args.score_thr,
                    args.list_top_k,
                    found.negative,
                )
            )
        )
    if len(broken) < len(images):
        print(f'Pictures and results are in {args.out_dir}.')
    if args.save_json and kept:
        # From the folder that all images lie in.
        root = common_folder([image for image, _, _ in kept])
        write_json(
            args.save_json,
            to_coco(
                [(image.removeprefix(root), *rest) for image, *rest in kept],
                inferencer.vocabulary.names,
            ),
        )
        print(f'All detections in the format of COCO are in {args.save_json}.')
    return say_broken(broken, len(images))


def common_folder(images: Sequence[str]) -> str:
    """Start that the paths of all images share, up to a folder's end."""
    start = os.path.commonprefix(list(images))
    return start[: start.rfind('/') + 1]


def plain_result(found: Detections) -> dict[str, Any]:
    """All detections of an image, best first, without their masks."""
    sample = found.every.new()
    sample.pred_instances = found.every.pred_instances[:]
    sample.pred_instances.pop('box_masks', None)
    return to_dict(sample, found.names)


def say_broken(errors: Sequence[str], count: int) -> int:
    """Name at the end the images that could not be read.

    Returns:
        int: Exit code: 3 where some were read and some were not.
    """
    for error in errors:
        print(f'error: {printable(error)}', file=sys.stderr)
    if not errors:
        return 0
    if len(errors) < count:
        print(
            f'error: {len(errors)} of {count} images could not be read; '
            'the others are done.',
            file=sys.stderr,
        )
        return SOME_BROKEN
    return USER_ERROR
