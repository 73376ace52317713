# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A detector as one file that runs without PyTorch."""

from argparse import Namespace
from pathlib import Path

from dito.apis import DITOInferencer
from dito.export.onnx_file import export_onnx, require_packages
from dito.export.torch_file import export_torch, require_compiler
from dito.utils.files import require_place

from .options import command


def licence_of(model: str) -> str:
    """Licence in the card of a published folder, 'unknown' without one."""
    card = Path(model, 'README.md')
    if card.is_file():
        for line in card.read_text(encoding='utf-8').splitlines()[:20]:
            key, _, value = line.partition(':')
            if key.strip() in ('license', 'licence'):
                return value.strip()
    return 'unknown'


@command
def main(args: Namespace) -> int:
    """Export, as the options of ``dito export`` say."""
    require_place(args.out)
    if args.format == 'onnx':
        require_packages()
    elif args.format == 'aoti':
        require_compiler()
    inferencer = DITOInferencer(
        args.config, args.checkpoint, args.names, 'cpu', args.negative_names
    )
    given = (
        inferencer,
        args.out,
        inferencer.model.vocabulary if args.names else None,
        args.licence or licence_of(args.checkpoint),
    )
    if args.format == 'onnx':
        found = export_onnx(*given, args.dtype)
    else:
        found = export_torch(*given, compiled=args.format == 'aoti')
    size = Path(args.out).stat().st_size / 1e6
    most = 'at most' if args.dtype == 'float32' else 'on average'
    print(f'{args.out}: {size:.1f} MB; differs from PyTorch {most} by {found}')
    return 0
