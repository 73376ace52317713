# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Named objects, found in pictures."""

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dito.apis import DITOInferencer, parse_names
from dito.apis.results import Detections, to_coco, to_dict
from dito.utils.configs import config_root
from dito.utils.files import write_json
from dito.utils.printable import printable

from .errors import ExitCode
from .options import command

# The detector that comes with the package, a published folder.
SHIPPED = Path('symbols/assets/dito_symbols')

# With fewer names a detector has hardly a choice.
FEW_NAMES = 5


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


@command
def main(args: Namespace) -> int:
    """Detect."""
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


def say_broken(errors: Sequence[str], count: int) -> ExitCode:
    """Name at the end the images that could not be read.

    Returns:
        ExitCode: ``PARTIAL`` where some were read and some were not.
    """
    for error in errors:
        print(f'error: {printable(error)}', file=sys.stderr)
    if not errors:
        return ExitCode.RIGHT
    if len(errors) < count:
        print(
            f'error: {len(errors)} of {count} images could not be read; '
            'the others are done.',
            file=sys.stderr,
        )
        return ExitCode.PARTIAL
    return ExitCode.USAGE
