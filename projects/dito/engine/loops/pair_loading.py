# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""How a process loads its share of a step of stages 1 and 2.

The pictures of a share are kept as bytes, 150 KB each at 224 x 224, and are
in memory once. Workers hand them over in turns, a part of the batch at a
time, so that what they make ahead is bounded whatever the batch.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import DATASETS
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from dito.datasets.image_text.shards import ImageTextShards
from dito.models.utils import unwrap_model

from .whole_batch import MICRO_BATCHES, BatchPlan, divisors, plan_batch

Batch = dict[str, Any]
# Least number of pairs, of all processes together, that a worker makes at a
# time; and up to how many processes it does not depend on their number.
_TURN, _PROCESSES = 512, 64
# Similarity matrices that a loss has at once, measured for InfoNCE; and the
# length of the queue of a worker where it is not set.
_MATRICES, _PREFETCH = 4, 2
_MEMINFO = Path('/proc/meminfo')
# Limit and use of the container, cgroup version 2 and 1.
_CGROUPS = (
    (Path('/sys/fs/cgroup/memory.max'), Path('/sys/fs/cgroup/memory.current')),
    (
        Path('/sys/fs/cgroup/memory/memory.limit_in_bytes'),
        Path('/sys/fs/cgroup/memory/memory.usage_in_bytes'),
    ),
)


def turn_of(total: int, processes: int) -> int:
    """Size of the part of a batch, of all processes, made at a time.

    Workers own streams and take turns, so which samples are in a step depends
    on this number: it is the same for all numbers of processes up to 64 that
    can share the batch, and for more where they divide it. It divides the
    batch, and is a multiple of the number of processes.
    """
    shared = [n for n in divisors(total) if n <= _PROCESSES]
    step = math.lcm(processes, *shared)
    return next(
        n for n in divisors(total) if n % step == 0 and n >= min(_TURN, total)
    )


def load_in_turns(loader: Any, plan: BatchPlan) -> Any:
    """Let a loader, or its config, give the share of a process in turns.

    ValueError if a loader that is built gives other batches.
    """
    size = turn_of(plan.total, plan.processes) // plan.processes
    if not isinstance(loader, DataLoader):
        return dict(loader, batch_size=size)
    if loader.batch_size != size:
        raise ValueError(
            f'{plan}, but the data loader was built for batches of '
            f'{loader.batch_size}: give the runner a config of it, or '
            f'batches of {size}.'
        )
    return loader


class TokenizedCollate:
    """Collates samples and tokenises their captions, in the workers.

    ``tokenizer`` makes int64 (B, L) of texts.
    """

    def __init__(
        self,
        collate: Callable[[list], Batch],
        tokenizer: Callable[[Sequence[str]], Tensor],
    ) -> None:
        self.collate, self.tokenizer = collate, tokenizer

    def __call__(self, samples: list) -> Batch:
        """Make a batch; ``tokens`` (B, L) are those of its ``texts``."""
        batch = self.collate(samples)
        texts = batch.get('texts') if isinstance(batch, dict) else None
        if texts and all(isinstance(text, str) for text in texts):
            batch['tokens'] = self.tokenizer(texts)
        return batch


def tokenize_in_workers(loader: DataLoader, model: Any) -> None:
    """Let the workers of a loader tokenise for a model, where it can."""
    tower = getattr(unwrap_model(model), 'text_encoder', None)
    collate = loader.collate_fn
    if isinstance(collate, TokenizedCollate):
        collate = collate.collate
    if hasattr(tower, 'caption_tokenizer'):
        collate = TokenizedCollate(collate, tower.caption_tokenizer())
    loader.collate_fn = collate


def read_share(batches: Iterator[Batch], turns: int) -> Batch | None:
    """Take the share of a process in a step from ``turns`` batches.

    None where the data ends before. Tensors are filled piece by piece, so that
    there is no second copy.
    """
    share: Batch = {}
    for turn in range(turns):
        piece = next(batches, None)
        if piece is None or turns == 1:
            return piece
        check_pairs_batch(piece)
        start, size = share.get('filled', 0), len(piece['inputs'])
        for name, value in piece.items():
            if not isinstance(value, Tensor):
                share.setdefault(name, []).extend(value)
                continue
            if not turn:
                share[name] = value.new_empty(
                    (turns * size, *value.shape[1:]),
                    pin_memory=value.is_pinned(),
                )
            share[name][start : start + size] = value
        share['filled'] = start + size
    whole = share.pop('filled') == len(share['inputs'])
    return share if whole else None


def check_pairs_batch(batch: Any) -> None:
    """Refuse what is no batch of pictures with captions."""
    if (
        not isinstance(batch, dict)
        or not isinstance(batch.get('inputs'), Tensor)
        or 'texts' not in batch
    ):
        raise ValueError(
            'the loader does not give batches of image-text pairs: set '
            'train_dataloader.dataset to an ImageTextShards, or a data set '
            'whose samples are dict(inputs=(3, H, W) uint8 array, texts=str), '
            "and its collate_fn to dict(type='image_text_collate')"
        )


def plan_of_loader(
    loader: Any, total: int, micro_batch: int | None = None
) -> BatchPlan:
    """Share a batch of stages 1 and 2 out to the processes of this run.

    Data with fewer pairs than the batch give a smaller one: a pair that stands
    in a batch twice would be a negative of itself. The data set of the loader,
    or of its config, is built in place. ValueError if the batch cannot come
    out.
    """
    built = isinstance(loader, DataLoader)
    size = micro_batch or (
        loader.batch_size if built else loader['batch_size']
    )
    processes = get_world_size()
    plan = plan_batch(total, processes, size, MICRO_BATCHES)
    if not built and isinstance(loader['dataset'], Mapping):
        loader['dataset'] = DATASETS.build(loader['dataset'])
    dataset = loader.dataset if built else loader['dataset']
    pairs = _count(dataset, total)
    if pairs >= total:
        return plan
    if pairs < max(2, processes):
        raise ValueError(
            f'train_dataloader.dataset holds {pairs} pairs: a step needs at '
            f'least {max(2, processes)} on {processes} processes.'
        )
    print_log(
        f'The {pairs} pairs of train_dataloader.dataset do not fill a batch '
        f'of {total} (train_cfg.total_batch_size), in which no pair should '
        f'come twice: a step takes {pairs // processes * processes}, at the '
        f'learning rate of {total}; to choose another batch and scale the '
        'rate to it, give --cfg-options train_cfg.total_batch_size=NUMBER '
        'with --auto-scale-lr.',
        logger='current',
        level=logging.WARNING,
    )
    return plan_batch(
        pairs // processes * processes, processes, size, MICRO_BATCHES
    )


def _count(dataset: Any, limit: int) -> int:
    """Count pairs up to a limit, on the first process alone."""
    found = [limit]
    if get_rank() == 0 and isinstance(dataset, ImageTextShards):
        found = [dataset.count_pairs(limit)]
    elif not isinstance(dataset, IterableDataset):
        found = [len(dataset)]
    broadcast_object_list(found)
    return found[0]


def warn_of_memory(plan: BatchPlan, loader: DataLoader, model: Any) -> None:
    """Say how much main memory the step of a run needs if it is not there.

    On a CPU the loss of the model counts too.
    """
    free, dataset = free_memory(), loader.dataset
    if free is None or not isinstance(dataset, ImageTextShards):
        return
    picture = 3 * dataset.transform.size**2
    ahead = (loader.prefetch_factor or _PREFETCH) + 2  # two while they stack
    made = max(1, loader.num_workers * ahead) * loader.batch_size * picture
    parts = dict(pictures=plan.share * picture, loading=made)
    if next(model.parameters()).device.type == 'cpu':
        loss = getattr(model, 'module', model).loss
        rows = min(plan.share, loss.row_chunk or plan.share)
        parts['similarities'] = 4 * _MATRICES * rows * plan.total
    here = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    need = here * sum(parts.values())
    if need <= free:
        return
    listed = ', '.join(
        f'{name} {here * value / 1e9:.1f}' for name, value in parts.items()
    )
    print_log(
        f'{plan} needs about {need / 1e9:.1f} GB of memory beside the model '
        f'({listed}) and {free / 1e9:.1f} GB are free: choose a smaller '
        'batch, with a learning rate to match, by --cfg-options '
        f'train_cfg.total_batch_size={_smaller(plan, free / need)} and '
        '--auto-scale-lr, fewer train_dataloader.num_workers, or '
        'model.loss.row_chunk=1024.',
        logger='current',
        level=logging.WARNING,
    )


def _smaller(plan: BatchPlan, factor: float) -> int:
    """Largest batch of the same processes that is ``factor`` as large."""
    fit = [
        n
        for n in divisors(plan.total)
        if n % plan.processes == 0 and n <= factor * plan.total
    ]
    return max(fit, default=2 * plan.processes)


def free_memory() -> int | None:
    """Bytes that can be taken without swapping; None where unknown.

    The less of what Linux calls available and of what the container leaves.
    """
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    found = [
        1024 * int(line.split()[1])
        for line in lines
        if line.startswith('MemAvailable:')
    ]
    for limit, use in _CGROUPS:
        try:
            found.append(int(limit.read_text()) - int(use.read_text()))
        except (OSError, ValueError):  # not there, or 'max'
            continue
    return min(found, default=None)
