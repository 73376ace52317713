# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write a training checkpoint's weights as safetensors, for publication."""

import argparse
from pathlib import Path
from typing import Dict, Optional, Sequence

from mmengine.config import Config
from torch import Tensor

from dito.utils.checkpoint import load_state_dict_file, save_safetensors

from . import common
from .errors import one_sentence_errors


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='.pth or .safetensors file')
    parser.add_argument('out', help='.safetensors file to write')
    parser.add_argument(
        '--config',
        help='config of the model, kept in the metadata; the file then '
        'says by itself what it is')
    parser.add_argument(
        '--prefix',
        nargs='+',
        default=[''],
        help='keep only weights whose names start with one of these')
    parser.add_argument(
        '--note',
        action='append',
        default=[],
        metavar='KEY=TEXT',
        help='further metadata, such as accuracy or licence')
    return parser.parse_args(argv)


def select(state: Dict[str, Tensor],
           prefixes: Sequence[str]) -> Dict[str, Tensor]:
    """Keep the weights whose names start with one of the prefixes."""
    kept = {
        k: v.contiguous()
        for k, v in state.items() if k.startswith(tuple(prefixes))
    }
    if not kept:
        raise ValueError(
            f'no weight starts with {list(prefixes)}; the file has names '
            f'like {sorted(state)[:3]}.')
    return kept


def read_notes(notes: Sequence[str]) -> Dict[str, str]:
    """Split KEY=TEXT."""
    wrong = [n for n in notes if '=' not in n]
    if wrong:
        raise ValueError(f'--note takes KEY=TEXT, got {wrong[0]!r}.')
    return dict(n.split('=', 1) for n in notes)


@one_sentence_errors
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Write the file."""
    args = parse_args(argv)
    if not args.out.endswith('.safetensors'):
        raise ValueError(f'the output must end in .safetensors: {args.out}')
    common.require_checkpoint(args.checkpoint)
    metadata = read_notes(args.note)
    if args.config:
        cfg: Config = common.load_config(args.config, None)
        metadata['config'] = cfg.pretty_text
    state = select(load_state_dict_file(args.checkpoint), args.prefix)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    save_safetensors(state, args.out, metadata)
    size = Path(args.out).stat().st_size / 1e6
    print(f'{args.out}: {len(state)} tensors, {size:.1f} MB')
    return 0
