# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Public image-text towers."""

from argparse import Namespace
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
from dito.utils.checkpoint import save_safetensors
from dito.utils.printable import printable

from .options import command

# Largest difference of a component of the unit embeddings.
_TOLERANCE = 1e-4


def check(source: TowerSource, tower: ConvertedTower) -> dict[str, float]:
    """Largest difference of 'image' and 'text'; ValueError above 1e-4."""
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


@command
def main(args: Namespace) -> int:
    """Convert, report and write."""
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
