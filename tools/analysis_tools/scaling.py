# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Cost of the three stages on many GPUs, by arithmetic, and checked.

Batches, schedules and models are those of the configs. Operations are counted
by PyTorch without data, messages by formulas; processes on this machine (gloo)
take real steps of stage 1, the bytes they hand to each collective are counted
and must be exactly those of the formulas, and the page is written.

Example:
    python tools/analysis_tools/scaling.py --page docs/scaling.md
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from benchmark import markdown
from benchmark_cases import Case
from benchmark_sides import detector, detector_flops
from benchmark_towers import pair_model, stage_config
from mmdet.registry import MODELS
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dito.cli.errors import ExitCode, one_sentence_errors
from dito.engine.throughput import step_flops
from dito.models.utils import LOG_SLOTS
from dito.utils.files import read_json, write_json, write_text

Sent = dict[str, int]
RANKS = (8, 64, 128, 256, 1024)
# Stated use: an H100's peak in bfloat16 and the share of it; bytes per second
# of a GPU to the others (400 Gbit/s), of a file system for one writer; images
# per second of a loader worker, bytes of a picture in a shard.
_PEAK, _USED = 989e12, 0.4
_LINK, _DISK = 50e9, 2e9
_WORKER, _PICTURE = 500, 25e3
_FLOAT = 4
_GATHERED = ('embeddings', 'counts')
# Pairs of a rank in the processes that are counted.
_PAIRS = 4
_PROCESSES = (1, 2, 4)


@dataclass(frozen=True)
class Stage:
    """What a stage of the paper costs.

    Args:
        name (str): Such as 'stage 1, ViT-L'.
        batch (int): Images of a step.
        steps (int): Of the schedule.
        flops (int): Operations of an image in training.
        trained (int): Parameters with a gradient.
        frozen (int): Without, in the checkpoint.
        moments (int): Values the optimizer keeps of a trained parameter.
        dims (int): Of embeddings that are contrasted; 0 for none.
        embeddings (int): Image embeddings of an image, one per level.
    """

    name: str
    batch: int
    steps: int
    flops: int
    trained: int
    frozen: int
    moments: int
    dims: int = 0
    embeddings: int = 1

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint in float32."""
        values = self.frozen + self.trained * (1 + self.moments)
        return _FLOAT * values


def messages(stage: Stage, ranks: int) -> Sent:
    """Bytes that a rank hands to each collective in a step.

    Args:
        stage (Stage): With a batch that the ranks divide.
        ranks (int): Processes.

    Returns:
        dict[str, int]: By name; empty for one process.
    """
    if ranks == 1:
        return {}
    sent = dict(gradients=_FLOAT * stage.trained, log=8 * LOG_SLOTS)
    if stage.dims:
        row = _FLOAT * stage.dims * (1 + stage.embeddings)
        sent['embeddings'] = stage.batch // ranks * row
        sent['their gradients'] = stage.batch * row
        sent['counts'] = 8
    return sent


def on_the_wire(sent: Sent, ranks: int) -> Sent:
    """Bytes that a rank sends, by the ring that NCCL and gloo use.

    A gather passes on what each of the others had; a sum goes round twice in
    pieces.

    Args:
        sent (dict[str, int]): As of :func:`messages`.
        ranks (int): Processes.

    Returns:
        dict[str, int]: By name.
    """
    others = ranks - 1
    return {
        name: size * others
        if name in _GATHERED
        else 2 * size * others // ranks
        for name, size in sent.items()
    }


# -------------------------------------------------------------------- stages


def stages(sizes: Sequence[str] = ('base', 'large')) -> Iterator[Stage]:
    """The paper's stages, from the configs."""
    for size in sizes:
        for number in (1, 2, 3):
            yield paper_stage(f'stage {number}', size)


@cache
def paper_stage(stage: str, size: str) -> Stage:
    """A stage at the paper's sizes.

    Args:
        stage (str): 'stage 1', 'stage 2' or 'stage 3'.
        size (str): 'small', 'base' or 'large'.

    Returns:
        Stage: What its config says and PyTorch counts.
    """
    init_default_scope('mmdet')
    side = {'stage 1': 224, 'stage 2': 256, 'stage 3': 1024}[stage]
    case = Case(stage, size, side)
    cfg = stage_config(case)
    with torch.device('meta'):
        if stage == 'stage 3':
            model = detector(case)
            flops = detector_flops(model, case)['train']
        else:
            model = MODELS.build(cfg.model)
            images = torch.empty(1, 3, side, side)
            # As long as a caption may be.
            batch = dict(inputs=images, texts=['word ' * 100])
            flops = step_flops(model, batch)
    trained = _size_of(p for p in model.parameters() if p.requires_grad)
    return Stage(
        f'{stage}, ViT-{size[0].upper()}',
        cfg.train_cfg.total_batch_size,
        cfg.train_cfg.max_iters,
        flops,
        trained,
        _size_of(model.parameters()) - trained,
        2 if cfg.optim_wrapper.optimizer.type == 'AdamW' else 1,
        0 if stage == 'stage 3' else model.text_encoder.embed_dims,
        len(cfg.model.regions.num_regions) if stage == 'stage 2' else 1,
    )


def _size_of(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)


# ------------------------------------------------------------------ counting


class SentBytes(TorchDispatchMode):
    """Counts what is handed to collectives, by DistributedDataParallel too.

    Attributes:
        sent (list[tuple[str, int]]): Collective and bytes, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and note one of torch.distributed."""
        if func.namespace == 'c10d':
            name = func.__name__.split('.')[0].rstrip('_')
            given = args[1] if name == 'allgather' else args[0]
            size = sum(
                t.nbytes for t in tree_leaves(given) if torch.is_tensor(t)
            )
            self.sent.append((name, size))
        return func(*args, **(kwargs or {}))


def _count(rank: int, ranks: int, folder: str) -> None:
    """Take steps of stage 1 on `symbols` and write what the last one sent."""
    torch.set_num_threads(1)
    init_default_scope('mmdet')
    dist.init_process_group(
        'gloo', f'file://{folder}/meet{ranks}', rank=rank, world_size=ranks
    )
    model, batch = pair_model(_counted_case())
    wrapped = model
    if ranks > 1:  # as a runner wraps it
        wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    # Messages of the gradients are arranged anew after the first step.
    for _ in range(3):
        with SentBytes() as count:
            wrapped.train_step(batch, wrapper)
    if rank == 0:
        write_json(f'{folder}/{ranks}.json', count.sent)
    dist.destroy_process_group()


def _counted_case() -> Case:
    return Case('stage 1', 'symbols', 64, _PAIRS)


def count(ranks: int) -> Sent:
    """Bytes that a rank hands to each collective in a real step of stage 1.

    The processes are forked, so nothing must have been trained before.

    Args:
        ranks (int): gloo processes on this machine.

    Returns:
        dict[str, int]: By collective.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_count, (ranks, folder), ranks, start_method='fork')
        sent: Counter[str] = Counter()
        for name, size in read_json(f'{folder}/{ranks}.json'):
            sent[name] += size
    return dict(sent)


def counted_stage(ranks: int) -> Stage:
    """Stage that :func:`count` takes steps of."""
    init_default_scope('mmdet')
    with torch.random.fork_rng():
        model, _ = pair_model(_counted_case())
    trained = _size_of(model.parameters())
    dims = model.text_encoder.embed_dims
    return Stage('symbols', _PAIRS * ranks, 0, 0, trained, 0, 0, dims)


def by_collective(sent: Sent) -> Sent:
    """Sum messages by the collective that takes them.

    Args:
        sent (dict[str, int]): As of :func:`messages`.

    Returns:
        dict[str, int]: 'allgather' and 'allreduce'.
    """
    total: Counter[str] = Counter()
    for name, size in sent.items():
        total['allgather' if name in _GATHERED else 'allreduce'] += size
    return dict(total)


# ---------------------------------------------------------------------- page


def _cost(stage: Stage, ranks: int) -> list[str]:
    """A row: work and messages of a rank in a step, and hours of all."""
    images = stage.batch // ranks
    compute = stage.flops * images / (_PEAK * _USED)
    sent = on_the_wire(messages(stage, ranks), ranks)
    pairs = sum(v for k, v in sent.items() if k not in ('gradients', 'log'))
    wire = sum(sent.values()) / _LINK
    return [
        stage.name,
        f'{ranks:,}',
        f'{images:,}',
        _figure(stage.flops * images / 1e12),
        _figure(1e3 * compute),
        _figure(pairs / 2**20) if stage.dims else '-',
        _figure(sent['gradients'] / 2**20),
        _figure(1e3 * wire),
        f'{wire / (wire + compute):.0%}',
        _figure(stage.steps * (compute + wire) / 3600),
    ]


_COST = (
    'stage',
    'GPUs',
    'images of a GPU',
    'TFLOP of it',
    'ms of work',
    'pairs sent, MiB',
    'gradients sent, MiB',
    'ms of sending',
    'share of sending',
    'hours',
)


def _figure(value: float) -> str:
    """Three digits, and no exponent."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _needs(stage: Stage) -> list[str]:
    """A row: what files and loaders must give, however many GPUs."""
    work = stage.flops * stage.batch * stage.steps / (_PEAK * _USED)
    # Of one GPU that does nothing else.
    rate = _PEAK * _USED / stage.flops
    loaders = rate * _PICTURE / 1e6, rate / _WORKER
    return [
        stage.name,
        f'{stage.flops / 1e9:,.0f}',
        f'{stage.flops * stage.batch * stage.steps:.2g}',
        f'{work / 3600:,.0f}',
        f'{stage.checkpoint / 1e9:.2f}',
        f'{stage.checkpoint / _DISK:.1f}',
        _figure(rate),
        *(_figure(x) if stage.dims else '-' for x in loaders),
    ]


_NEEDS = (
    'stage',
    'GFLOP per image',
    'FLOP in all',
    'GPU hours',
    'checkpoint, GB',
    's to write',
    'images/s of a GPU',
    'MB/s',
    'workers of a GPU',
)


def page(found: Sequence[Stage], counted: dict[int, Sent]) -> str:
    """Write the page.

    Args:
        found (sequence[Stage]): Stages.
        counted (dict[int, dict]): Number of processes: bytes by collective.

    Returns:
        str: Markdown.
    """
    costs = [
        _cost(stage, ranks)
        for stage in found
        for ranks in RANKS
        if stage.batch % ranks == 0
    ]
    weak = [
        [
            str(ranks),
            str(_PAIRS * ranks),
            *(f'{sent.get(k, 0):,}' for k in ('allgather', 'allreduce')),
        ]
        for ranks, sent in counted.items()
    ]
    return _PAGE.format(
        peak=_PEAK / 1e12,
        used=_USED,
        link=_LINK / 1e9,
        disk=_DISK / 1e9,
        worker=_WORKER,
        picture=_PICTURE / 1e3,
        pairs=_PAIRS,
        costs=markdown(_COST, costs),
        needs=markdown(_NEEDS, [_needs(stage) for stage in found]),
        weak=markdown(_WEAK, weak),
    )


_WEAK = (
    'processes',
    'pairs of a step',
    'all-gather, bytes of a rank',
    'all-reduce, bytes of a rank',
)
_PAGE = """\
# Many GPUs, by arithmetic

Nothing on this page was timed, and there were no GPUs: it says what a step
must compute and send, so that a cluster can be judged before it is paid for.
The page is written by

```bash
python tools/analysis_tools/scaling.py --page docs/scaling.md
```

Batches, schedules and models are read from the configs, which name the place
in the paper of each figure ([configs/README.md](../configs/README.md));
operations of a step are counted as for the log
([training.md](training.md#the-log)). Use that is assumed: {used:.0%} of the
{peak:.0f} TFLOP/s of an H100 in bfloat16, {link:.0f} GB/s from a GPU to the
others (400 Gbit/s), nothing sent while computing, {disk:.0f} GB/s for the one
process that writes a checkpoint, {worker} images/s of a loader worker,
{picture:.0f} kB per picture.

## A step

A rank gathers the embeddings of all ranks in one message, sums the gradients
of these over all ranks, and the gradients of its weights, in float32. With W
ranks and n of N = W n pairs on each, D channels, L image embeddings of an
image (one per level in stage 2) and P trained parameters a rank hands over

| message | bytes | sent on a ring |
| --- | --- | --- |
| embeddings, all-gather | 4 n (1 + L) D | times W - 1 |
| their gradients, all-reduce | 4 N (1 + L) D | times 2 (W - 1) / W |
| gradients of weights, all-reduce | 4 P | times 2 (W - 1) / W |

and 8 bytes for the number of its pairs, 512 for the log. So what a rank sends
hardly depends on W, while its work falls with W, as the batch is that of the
schedule. Gradients are summed once per step, however many micro-batches it
has. Stage 3 has 128 images per step, so at most 128 GPUs.

{costs}
Sending can overlap with the backward pass, as DistributedDataParallel does it,
so the hours are an upper bound for this link. Where the share is large, the
link or the number of GPUs is wrong: a batch of 4,096 does not keep 1,024 GPUs
busy.

## Files and loaders

GPU hours are work alone. A checkpoint holds weights and what the optimizer
keeps, in float32; without FSDP one process writes it while the others wait.

{needs}
Workers and MB/s are those of one GPU at that use; for a shared file system
multiply by the number of GPUs. Stage 3 reads pictures of a few hundred kB and
crops masks: its loader is measured ([benchmarks/cpu.md](benchmarks/cpu.md)).

## Weak scaling, counted

Real steps of stage 1 with the towers of `symbols`, {pairs} pairs per process,
on gloo. What a rank hands to each collective of `torch.distributed` is
counted, by DistributedDataParallel too; the script fails unless all of it is,
to the byte, what the formulas above say.

{weak}"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--page', help='file to write')
    parser.add_argument(
        '--debug', action='store_true', help='show tracebacks of errors'
    )
    return parser.parse_args(argv)


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Count, compare and write."""
    args = parse_args(argv)
    counted = {ranks: count(ranks) for ranks in _PROCESSES}
    wrong = False
    for ranks, sent in counted.items():
        said = by_collective(messages(counted_stage(ranks), ranks))
        if sent != said:
            wrong = True
            print(f'{ranks} processes handed over {sent}, expected {said}')
    if wrong:
        return ExitCode.FINDINGS
    text = page(list(stages()), counted)
    if args.page:
        write_text(args.page, text)
    else:
        print(text)
    return ExitCode.RIGHT


if __name__ == '__main__':
    raise SystemExit(main())
