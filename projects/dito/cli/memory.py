# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Peak memory of a training step, by its parts.

    python tools/analysis_tools/memory.py                    # computed
    python tools/analysis_tools/memory.py --measure small    # and measured
    python tools/analysis_tools/memory.py --measure small base large \
        --device cuda --bf16

Backbone: forward and backward pass of the ViT at 1024 x 1024 pixels in 4 x 4
windows, over the loaded model: activations, transient values and gradients.
Figures are computed by dito/utils/memory_model.py; measured ones stand beside
them, as PyTorch's allocator counts them. Heads: what pyramid, proposal, box
and mask head keep for the backward pass, with the 512 RoIs of an image. A step
of the detector takes about the sum of backbone, heads, teacher and weights;
the optimizer's state and the weights of the heads come on top.
"""

import argparse
from contextlib import nullcontext
from itertools import product
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from dito.evaluation.result_table import print_table
from dito.models.backbones import DITOViT
from dito.utils.files import write_json
from dito.utils.head_memory import head_memory
from dito.utils.memory_model import (
    SWL,
    Setting,
    parameter_count,
    step_memory,
    teacher_memory,
)

from .errors import one_sentence_errors

_SHIFT = dict(
    none=dict(shift=None),
    batched=dict(shift='swl', swl_batched=True),
    sequential=dict(shift='swl', swl_batched=False))
_HEADS = ('ViT', 'batch', 'checkpointing', 'SWL', 'backbone: computed',
          'measured', 'heads keep', 'teacher adds', 'weights')


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line of ``memory.py``."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    archs = ('tiny', 'small', 'base', 'large', 'huge')
    add('--arch', nargs='+', choices=archs,
        default=['small', 'base', 'large'])
    add('--batch', nargs='+', type=int, default=[1, 2, 3, 4])
    add('--img-size', type=int, default=1024)
    add('--bf16', action='store_true', help='bfloat16 autocast')
    add('--measure', nargs='*', choices=archs, default=[],
        help='measure these (each takes a forward and a backward pass)')
    add('--device', default='cpu', help='for measuring, such as cuda')
    add('--json', metavar='FILE', help='write the rows to this file')
    add('--debug', action='store_true', help='show tracebacks of errors')
    args = parser.parse_args(argv)
    if min(*args.batch, args.img_size) < 1:
        parser.error('--batch and --img-size must be at least 1')
    return args


def measure(setting: Setting, device: str = 'cpu') -> float:
    """Measure a step.

    Args:
        setting (Setting): The step.
        device (str): Such as 'cuda'. Defaults to 'cpu'.

    Returns:
        float: Peak over the loaded model, in MiB, as the allocator of
        PyTorch counts it.
    """
    model = DITOViT(
        setting.arch, setting.patch_size, window=dict(grid=4),
        with_cp=setting.with_cp, **_SHIFT[setting.swl]).to(device).train()
    cast = torch.autocast(torch.device(device).type, torch.bfloat16
                          ) if setting.bf16 else nullcontext()

    def step(side: int) -> None:
        image = torch.zeros(setting.batch, 3, side, side, device=device)
        with cast:
            feat = model(image)[0]
        feat.float().sum().backward()
        model.zero_grad(set_to_none=True)

    step(4 * setting.patch_size)
    if not device.startswith('cuda'):
        return _peak_of_events(lambda: step(setting.img_size)) / 2**20
    start = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step(setting.img_size)
    return (torch.cuda.max_memory_allocated(device) - start) / 2**20


def _peak_of_events(run: Callable[[], None]) -> int:
    """Peak of what is allocated on the CPU while something runs, in bytes."""
    with profile(activities=[ProfilerActivity.CPU],
                 profile_memory=True) as log:
        run()
    events = [e for e in log.profiler.kineto_results.events()
              if e.name() == '[memory]']
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def rows_of(args: argparse.Namespace) -> List[Dict[str, Any]]:
    """All settings with their figures."""
    rows = []
    heads = {pair: head_memory(*pair, args.img_size, args.bf16)
             for pair in product(args.arch, args.batch)}
    for arch, batch, with_cp, swl in product(args.arch, args.batch,
                                             (False, True), SWL):
        setting = Setting(arch, batch, args.img_size, with_cp, swl, args.bf16)
        measured = measure(setting, args.device) if arch in args.measure \
            else None
        rows.append(dict(
            arch=arch, batch=batch, with_cp=with_cp, swl=swl,
            computed=step_memory(setting), measured=measured,
            device=args.device if measured is not None else None,
            heads=heads[arch, batch],
            teacher=teacher_memory(setting),
            weights=4 * parameter_count(arch) / 2**20))
    return rows


def show(args: argparse.Namespace, rows: Sequence[Dict[str, Any]]) -> Table:
    """The figures as a table for the terminal."""
    kind = 'bfloat16 autocast' if args.bf16 else 'float32'
    table = Table(title=f'Training step at {args.img_size} x '
                  f'{args.img_size}, {kind}, in MiB over the loaded model')
    for number, head in enumerate(_HEADS):
        table.add_column(head, justify='right' if number > 3 else 'left')
    for row in rows:
        measured = '-' if row['measured'] is None else (
            f'{row["measured"]:,.0f} ({row["device"]})')
        table.add_row(row['arch'], str(row['batch']),
                      'yes' if row['with_cp'] else 'no', row['swl'],
                      f'{row["computed"]:,.0f}', measured,
                      f'{row["heads"]:,.0f}',
                      f'{row["teacher"]:,.0f}', f'{row["weights"]:,.0f}')
    return table


@one_sentence_errors
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Compute, measure and show."""
    args = parse_args(argv)
    rows = rows_of(args)
    print_table(show(args, rows))
    if args.json:
        write_json(args.json, rows, indent=1)
    return 0
