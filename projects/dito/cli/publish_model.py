# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Checkpoints made ready for others."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor

from dito.utils.checkpoint import (
    load_state_dict_file,
    save_safetensors,
    state_dict_of,
)
from dito.utils.files import sha256_of

from . import common
from .options import command


def select(
    state: dict[str, Tensor], prefixes: Sequence[str]
) -> dict[str, Tensor]:
    """Keep the weights whose names start with one of the prefixes."""
    kept = {
        k: v.contiguous()
        for k, v in state.items()
        if k.startswith(tuple(prefixes))
    }
    if not kept:
        raise ValueError(
            f'no weight starts with {list(prefixes)}; the file has names '
            f'like {sorted(state)[:3]}.'
        )
    return kept


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round float32 weights to float16; ValueError beyond about 65,504."""
    small = {
        name: value.half() if value.dtype == torch.float32 else value
        for name, value in state.items()
    }
    for name, value in small.items():
        lost = value.isinf() & state[name].isfinite()
        if lost.any():
            raise ValueError(
                f'{name} holds {state[name][lost].abs().max():.4g}, beyond '
                'what float16 can hold; publish without --half.'
            )
    return small


def read_notes(notes: Sequence[str]) -> dict[str, str]:
    """Split KEY=TEXT."""
    wrong = [n for n in notes if '=' not in n]
    if wrong:
        raise ValueError(f'--note takes KEY=TEXT, got {wrong[0]!r}.')
    return dict(n.split('=', 1) for n in notes)


@command
def main(args: Namespace) -> int:
    """Write the file."""
    common.require_checkpoint(args.checkpoint)
    if not args.out.endswith('.safetensors'):
        if Path(args.out).suffix in ('.pth', '.pt', '.bin'):
            raise ValueError(
                f'the output must end in .safetensors, or be a folder: '
                f'{args.out}'
            )
        return write_folder(args)
    metadata = read_notes(args.note)
    if args.config:
        cfg: Config = common.load_config(args.config, None)
        metadata['config'] = cfg.pretty_text
    state = select(load_state_dict_file(args.checkpoint), args.keep)
    state = halved(state) if args.half else state
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    save_safetensors(state, args.out, metadata)
    size = Path(args.out).stat().st_size / 1e6
    print(f'{args.out}: {len(state)} tensors, {size:.1f} MB')
    return 0


def write_folder(args: Namespace) -> int:
    """Write, and upload if asked, a folder that holds a whole detector."""
    from dito.apis import load_model_source, package_model, push_to_hub

    if args.config:
        common.load_config(args.config, None)
    if args.metrics:
        _refuse_other_weights(args.metrics, args.checkpoint)
    cfg, checkpoint = load_model_source(args.config, args.checkpoint)
    meta = (checkpoint.get('meta') or {}).get('dataset_meta') or {}
    state = select(state_dict_of(checkpoint, args.checkpoint), args.keep)
    weights = package_model(
        args.out,
        halved(state) if args.half else state,
        cfg,
        name=args.name or Path(args.out).resolve().name,
        dataset_meta=meta,
        vocabulary=args.vocabulary,
        metrics=args.metrics,
        notes=read_notes(args.note),
    )
    size = weights.stat().st_size / 1e6
    print(f'{weights}: {size:.1f} MB')
    if args.push:
        print(push_to_hub(args.out, args.push))
    return 0


def _refuse_other_weights(metrics: str, checkpoint: str) -> None:
    """Refuse figures that were measured with another checkpoint."""
    from dito.apis.hub import read_report

    tested = {
        (result.get('protocol') or {}).get('checkpoint_sha256')
        for result in read_report(metrics)['results']
    } - {None}
    own = sha256_of(checkpoint)
    if tested - {own}:
        raise ValueError(
            f'{metrics} has the figures of a checkpoint with the sha256 '
            f'{min(tested - {own})[:8]}, but {checkpoint} has {own[:8]}; '
            'test it, and give the report of that test.'
        )
