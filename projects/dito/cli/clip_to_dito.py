# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Convert a public image-text tower to a checkpoint that stages start from."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from dito.converters.towers import (
    ConvertedTower,
    TowerSource,
    convert_tower,
    feature_error,
    read_source,
    resample_tower,
)
from dito.converters.towers.key_report import METHODS
from dito.utils.checkpoint import save_safetensors
from dito.utils.printable import printable

from .errors import one_sentence_errors

# Largest difference of a component of the unit embeddings.
_TOLERANCE = 1e-4


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'source',
        help='open_clip model such as ViT-B-16; timm:NAME for an image tower '
        'alone; or a folder with open_clip_config.json and weights',
    )
    parser.add_argument('out', help='.safetensors file to write')
    parser.add_argument(
        '--weights',
        help='local file, .safetensors or a torch state dict; not needed for '
        'a folder',
    )
    parser.add_argument(
        '--tag',
        help="open_clip's name of the weights, such as openai or "
        'laion2b_s34b_b88k: decides the activation and mean and std',
    )
    parser.add_argument(
        '--patch-size', type=int, help='resample the patch embedding'
    )
    parser.add_argument(
        '--img-size',
        type=int,
        help='resample the position grid to this size of the image (default: '
        'keep the grid)',
    )
    parser.add_argument(
        '--patch-method',
        choices=METHODS,
        default=METHODS[0],
        help='how patches are resampled (default: pinv, as FlexiViT)',
    )
    parser.add_argument(
        '--dense',
        choices=['avg', 'value', 'attn_pool'],
        help='how regions are embedded (default: chosen by the tower)',
    )
    parser.add_argument(
        '--no-check',
        action='store_true',
        help='do not compare the embeddings of both models',
    )
    return parser.parse_args(argv)


def check(source: TowerSource, tower: ConvertedTower) -> dict[str, float]:
    """Compare embeddings, and refuse a tower that differs.

    Args:
        source (TowerSource): The original.
        tower (ConvertedTower): Converted, at its native size.

    Returns:
        dict[str, float]: Largest difference, for 'image' and 'text'.

    Raises:
        ValueError: If one is over 1e-4.
    """
    errors = feature_error(source, tower)
    # A difference that is no number is no small one.
    wrong = {k: v for k, v in errors.items() if not v <= _TOLERANCE}
    if wrong:
        raise ValueError(
            f'The converted tower does not give the embeddings of the source '
            f'(largest differences {wrong}, allowed {_TOLERANCE}); nothing '
            'was written, please report the model.'
        )
    return errors


def config_text(tower: ConvertedTower) -> str:
    """Settings to copy into a config, as Python."""
    meta = tower.metadata()
    model: dict[str, Any] = dict(meta['model'])
    model['data_preprocessor'] = {
        key: [round(x, 4) for x in meta['preprocess'][key]]
        for key in ('mean', 'std')
    }
    return Config(dict(model=model)).pretty_text


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Convert, report and write."""
    args = parse_args(argv)
    if not args.out.endswith('.safetensors'):
        raise ValueError(
            f'The output must end in .safetensors, got {args.out}.'
        )
    source = read_source(args.source, args.weights, args.tag)
    tower = convert_tower(source)
    errors = {} if args.no_check else check(source, tower)
    resample_tower(tower, args.patch_size, args.img_size, args.patch_method)
    if args.dense is not None:
        tower.set_dense(args.dense)
    print(printable(tower.report.text()))
    for kind, value in errors.items():
        print(
            f'{kind} embeddings differ from the source by at most '
            f'{value:.1e} (before any resampling).'
        )
    save_safetensors(tower.state, args.out, tower.metadata())
    size = Path(args.out).stat().st_size / 1e6
    print(
        f'{args.out}: {len(tower.state)} tensors, {size:.1f} MB\n'
        f'Settings for a config:\n{config_text(tower)}'
    )
    if 'tokenizer' in tower.meta:
        print(
            printable(
                'Its texts need the tokenizer '
                f'{tower.meta["tokenizer"]}: '
                'see docs/pretrained_towers.md.'
            )
        )
    return 0
