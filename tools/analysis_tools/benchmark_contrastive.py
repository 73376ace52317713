# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
r"""Measure a step of stage 1: its memory by micro-batch, its time.

``memory``: peak of one step over the built model (gradients and optimizer
states included), for micro-batches of a fixed batch, and for growing batches
with the smallest micro-batch, where it should stay flat. On a CPU each is
measured in a process of its own.
``time``: against open_clip's model of the same size with its loss and the same
optimizer; both sides take turns and the best of each counts. Ours reads bytes
and captions, open_clip gets normalised images and tokens.

Prints one line of JSON. Example::

    python tools/analysis_tools/benchmark_contrastive.py time --arch base \
        --img-size 224 --patch-size 16 --text 512 12 8
"""

import argparse
import json
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.optim import OptimWrapper
from torch import nn
from torch.optim import AdamW

from dito.cli.errors import one_sentence_errors
from dito.engine.loops.cached_step import cached_train_step
from dito.engine.strategies import DITOBF16OptimWrapper
from dito.models.backbones.vit_layers import ARCHS
from dito.models.pretrainers import BatchPlace

Step = Callable[[], Any]
_WORDS = 'a photo of red small cat tree on the sea'.split()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('what', choices=['memory', 'time'])
    add('--arch', default='tiny', choices=list(ARCHS))
    add('--img-size', type=int, default=64, help='side in pixels')
    add('--patch-size', type=int, default=8)
    add(
        '--text',
        type=int,
        nargs=3,
        default=[128, 2, 2],
        metavar=('WIDTH', 'LAYERS', 'HEADS'),
        help='the text tower',
    )
    add('--words', type=int, default=12, help='words of a caption')
    add('--batch', type=int, default=32, help='pairs of a step')
    add('--micro-batches', type=int, nargs='+', default=[4, 16, 32])
    add(
        '--repeat',
        type=int,
        default=3,
        help='timed steps of each side, after one untimed',
    )
    add('--device', default='cpu')
    add('--bf16', action='store_true', help='bfloat16 autocast')
    add('--with-cp', action='store_true', help='activation checkpointing')
    add(
        '--threads',
        type=int,
        default=0,
        help="CPU threads; 0 for torch's own choice",
    )
    add('--debug', action='store_true', help='show tracebacks of errors')
    args = parser.parse_args(argv)
    if min(args.micro_batches + [args.batch, args.repeat]) < 1:
        parser.error('numbers of pairs and steps must be at least 1')
    if args.what == 'memory' and min(args.micro_batches) > args.batch:
        parser.error(
            f'no --micro-batches {args.micro_batches} is within --batch '
            f'{args.batch}'
        )
    return args


def captions(args: argparse.Namespace, batch: int) -> list[str]:
    """Different captions of ``--words`` words."""
    return [
        ' '.join(
            _WORDS[(i * (w + 1) + w) % len(_WORDS)] for w in range(args.words)
        )
        for i in range(batch)
    ]


def build_ours(args: argparse.Namespace) -> nn.Module:
    """Build the pretrainer of stage 1; the same weights every time."""
    torch.manual_seed(0)
    width, layers, heads = args.text
    model = MODELS.build(
        dict(
            type='CLIPPretrainer',
            backbone=dict(
                type='DITOViT',
                arch=args.arch,
                patch_size=args.patch_size,
                img_size=args.img_size,
                with_cp=args.with_cp,
            ),
            text_encoder=dict(
                type='DITOTextEncoder',
                with_cp=args.with_cp,
                arch=dict(width=width, layers=layers, heads=heads),
                embed_dims=ARCHS[args.arch].embed_dims,
            ),
        )
    )
    return model.to(args.device).train()


def our_step(
    args: argparse.Namespace,
    model: nn.Module,
    batch: int,
    micro_batch: int | None = None,
) -> Step:
    """One step from bytes and captions to new weights."""
    images = torch.randint(
        0, 256, (batch, 3, args.img_size, args.img_size), dtype=torch.uint8
    )
    kind = DITOBF16OptimWrapper if args.bf16 else OptimWrapper
    wrapper = kind(optimizer=AdamW(model.parameters(), lr=1e-4))
    data = dict(
        inputs=images,
        texts=captions(args, batch),
        place=BatchPlace(0, 0, 0, batch),
    )
    if micro_batch is None:
        return lambda: model.train_step(data, wrapper)
    return lambda: cached_train_step(model, data, wrapper, micro_batch)


def open_clip_step(args: argparse.Namespace) -> Step:
    """One step of open_clip's model of the same size."""
    import open_clip

    torch.manual_seed(0)
    size, (width, layers, heads) = ARCHS[args.arch], args.text
    model = (
        open_clip.CLIP(
            embed_dim=size.embed_dims,
            vision_cfg=dict(
                layers=size.num_layers,
                width=size.embed_dims,
                head_width=size.embed_dims // size.num_heads,
                patch_size=args.patch_size,
                image_size=args.img_size,
            ),
            text_cfg=dict(width=width, layers=layers, heads=heads),
            output_dict=True,
        )
        .to(args.device)
        .train()
    )
    model.set_grad_checkpointing(args.with_cp)
    images = torch.randn(args.batch, 3, args.img_size, args.img_size)
    tokens = open_clip.get_tokenizer('ViT-B-32')(captions(args, args.batch))
    loss = open_clip.ClipLoss()
    optimizer = AdamW(model.parameters(), lr=1e-4)
    device = torch.device(args.device)

    def step() -> None:
        cast = (
            torch.autocast(device.type, torch.bfloat16)
            if args.bf16
            else nullcontext()
        )
        with cast:
            value = loss(**model(images.to(device), tokens.to(device)))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))

    return step


def _synchronize(args: argparse.Namespace) -> None:
    if torch.device(args.device).type == 'cuda':
        torch.cuda.synchronize()


def measure_time(args: argparse.Namespace) -> dict[str, Any]:
    """Time both sides in turns."""
    steps = dict(
        open_clip=open_clip_step(args),
        dito=our_step(args, build_ours(args), args.batch),
    )
    best = dict.fromkeys(steps, math.inf)
    for number in range(args.repeat + 1):
        for name, step in steps.items():
            _synchronize(args)
            begin = time.perf_counter()
            step()
            _synchronize(args)
            if number:
                best[name] = min(best[name], time.perf_counter() - begin)
    return dict(seconds=best, ratio=best['open_clip'] / best['dito'])


def step_memory(args: argparse.Namespace, batch: int, micro_batch: int) -> int:
    """Peak bytes of a step over what the built model takes."""
    model = build_ours(args)
    if torch.device(args.device).type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        our_step(args, model, batch, micro_batch)()
        return torch.cuda.max_memory_allocated() - before
    unit = 1 if sys.platform == 'darwin' else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    our_step(args, model, batch, micro_batch)()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) * unit


def _child(
    args: argparse.Namespace, batch: int, micro_batch: int, queue: Any
) -> None:
    torch.set_num_threads(args.threads or 1)
    queue.put(step_memory(args, batch, micro_batch))


def peak_memory(
    args: argparse.Namespace, batch: int, micro_batch: int
) -> float:
    """Peak of a step in MiB; on a CPU in a process of its own.

    Raises:
        RuntimeError: If the process dies, such as for want of memory.
    """
    if torch.device(args.device).type == 'cuda':
        return step_memory(args, batch, micro_batch) / 2**20
    context = multiprocessing.get_context('fork')
    queue = context.SimpleQueue()
    process = context.Process(
        target=_child, args=(args, batch, micro_batch, queue)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(
            f'a step of {batch} pairs in pieces of {micro_batch} ended with '
            f'exit code {process.exitcode}; use a smaller --batch'
        )
    return queue.get() / 2**20


def measure_memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory by micro-batch, and by batch with the smallest one."""
    micro = sorted(m for m in args.micro_batches if m <= args.batch)
    by_micro = {m: peak_memory(args, args.batch, m) for m in micro}
    by_batch = {args.batch: by_micro[micro[0]]}
    for batch in (2 * args.batch, 4 * args.batch):
        by_batch[batch] = peak_memory(args, batch, micro[0])
    return dict(
        mib_by_micro_batch=by_micro,
        mib_by_batch=by_batch,
        saved=by_micro[micro[-1]] / by_micro[micro[0]],
        growth=by_batch[4 * args.batch] / by_batch[args.batch],
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and say what with."""
    # Memory first: a process that has used its threads must not fork.
    if args.what == 'time' and args.threads:
        torch.set_num_threads(args.threads)
    measure = measure_memory if args.what == 'memory' else measure_time
    result = measure(args)
    settings = {
        k: v for k, v in vars(args).items() if k not in ('debug', 'repeat')
    }
    return dict(result, **settings, torch=torch.__version__)


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print one line of JSON."""
    print(json.dumps(run(parse_args(argv))))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
