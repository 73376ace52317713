# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Training loop of the two image-text pretraining stages."""

import logging
import time
from typing import Any

import torch
from mmdet.registry import LOOPS
from mmengine.dist import all_gather, get_world_size
from mmengine.logging import print_log
from torch.utils.data import DataLoader, IterableDataset

from dito.datasets.image_text.streams import StreamPosition
from dito.datasets.placed_samples import (
    DITOInfiniteSampler,
    PlacedLoading,
    placed_sampler,
)
from dito.models.pretrainers.random_regions import BatchPlace
from dito.models.utils import unwrap_model

from .cached_step import cached_train_step
from .pair_loading import (
    check_pairs_batch,
    load_in_turns,
    plan_of_loader,
    read_share,
    tokenize_in_workers,
    warn_of_memory,
)
from .whole_batch import BatchPlan, WholeBatchLoop, scales_lr

_POSITION_KEY = 'image_text_position'
# Samples that a reader passed over since the last one, by reason.
_COUNTS = ('skipped', 'filtered')


@LOOPS.register_module()
class ImageTextTrainLoop(WholeBatchLoop):
    """Iterations over an endless image-text loader.

    The data are :class:`ImageTextShards`, or any data set with indices whose
    samples have ``inputs``, a uint8 array (3, H, W), and ``texts``, a string;
    its sampler is MMEngine's ``InfiniteSampler``.

    Differences to mmengine's loop: the batch is that of the schedule on any
    number of processes (``total_batch_size``), trained in micro-batches with
    exactly the gradient of the whole (feature caching); the place in the
    data is kept in the checkpoint, so that a resumed run goes on with the
    next sample without reading the ones before; random regions and crops are
    drawn from (seed, iteration) for the global batch, so that they do not
    depend on the number of processes; images per second and the time spent
    waiting for the loader are logged.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader or dict): Loader of pairs. With
            ``total_batch_size`` its ``batch_size`` is what a device embeds at
            a time; the loader then gives parts of a step that do not depend
            on it, nor on the number of processes, as the samples of a step
            do not.
        micro_batch (int, optional): Number of samples embedded at a time on
            a process. Defaults to None, what a device embeds at a time.
        total_batch_size (int, optional): Pairs of a step. Defaults to None,
            one batch of every process; so it is where the learning rate
            follows the batch (``auto_scale_lr.enable``).
        seed (int, optional): Seed of what the model draws. Defaults to None,
            the run's (``randomness.seed``).
        **kwargs: Of :obj:`IterBasedTrainLoop`: ``max_iters``, ``val_begin``,
            ``val_interval`` and ``dynamic_intervals``, in iterations.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        *,
        micro_batch: int | None = None,
        total_batch_size: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(
                f'micro_batch must be at least 1, got {micro_batch}'
            )
        self.plan: BatchPlan | None = None
        if total_batch_size is not None and not scales_lr(runner):
            if not isinstance(dataloader, DataLoader):
                dataloader = dict(dataloader)  # its data set is built
            self.plan = plan_of_loader(
                dataloader, total_batch_size, micro_batch
            )
            dataloader = load_in_turns(dataloader, self.plan)
            micro_batch = self.plan.images
        if not isinstance(dataloader, DataLoader):
            # Dealt out one by one, as shards are: see BatchPlace.
            dataloader = placed_sampler(dataloader, 1)
        super().__init__(runner, dataloader, **kwargs)
        self.micro_batch = micro_batch
        self.turns = (
            1
            if self.plan is None
            else (self.plan.share // self.dataloader.batch_size)
        )
        self.seed = seed
        self._position: StreamPosition | None = None

    def _check(self) -> None:
        if self.plan is not None:
            print_log(str(self.plan), logger='current')
            warn_of_memory(self.plan, self.dataloader, self.runner.model)
        _check_accumulation(self.runner.optim_wrapper)
        _check_batch(self.turns * (self.dataloader.batch_size or 0))

    def _go_on(self) -> None:
        self._position = self._restore_position()
        # After the hooks: they may have loaded weights, with other rows.
        tokenize_in_workers(self.dataloader, self.runner.model)
        self._batches = None

    def _step(self) -> None:
        if self._batches is None:
            self._batches = iter(self.dataloader)
        batch = self._next_batch()
        self.run_iter(batch, self._note(self._position, batch))

    def run_iter(
        self,
        data_batch: dict[str, Any],
        counts: dict[str, float] | None = None,
    ) -> None:
        """Train on ``inputs`` (B, 3, H, W) uint8 and ``texts``; log counts."""
        self.runner.call_hook(
            'before_train_iter', batch_idx=self._iter, data_batch=data_batch
        )
        size = len(data_batch['inputs'])
        seed = self.runner.seed if self.seed is None else self.seed
        place = BatchPlace(seed, self._iter, 0, size)
        batch = dict(data_batch, place=place)
        model, optim_wrapper = self.runner.model, self.runner.optim_wrapper
        if self.micro_batch is None or self.micro_batch >= size:
            outputs = model.train_step(batch, optim_wrapper=optim_wrapper)
        else:
            outputs = cached_train_step(
                model, batch, optim_wrapper, self.micro_batch
            )
        core = unwrap_model(model)
        core.clamp_logit_scale()
        outputs.update(self._meter.step(size * get_world_size()))
        outputs.update(counts or {})
        self.runner.call_hook(
            'after_train_iter',
            batch_idx=self._iter,
            data_batch=data_batch,
            outputs=outputs,
        )
        self._iter += 1

    def _next_batch(self) -> dict[str, Any]:
        """Take a batch from the loader and measure the wait."""
        begin = time.perf_counter()
        batch = read_share(self._batches, self.turns)
        self._meter.wait(time.perf_counter() - begin)
        if batch is None:
            raise RuntimeError(
                f'the data ended after {self._iter} of {self._max_iters} '
                'iterations; leave epochs=None, set the sampler to '
                "dict(type='InfiniteSampler'), or lower max_iters"
            )
        check_pairs_batch(batch)
        return batch

    def _note(
        self, position: StreamPosition | None, batch: dict[str, Any]
    ) -> dict[str, float]:
        """Note what all processes have used; what they passed over."""
        if position is None:
            return {}
        names = [name for name in _COUNTS if name in batch]
        columns = [batch.pop('cursors')]
        columns += [batch.pop(name)[:, None] for name in names]
        rows = torch.cat(all_gather(torch.cat(columns, dim=1)))
        passed = rows[:, 4:].sum(dim=0).tolist()
        position.update(
            rows[:, :4], dict(zip(names, passed, strict=True)), self.turns
        )
        self.runner.message_hub.update_info(
            _POSITION_KEY, dict(position.state_dict(), workers=self._workers())
        )
        return {f'{n}_samples': float(position.passed[n]) for n in names}

    def _restore_position(self) -> StreamPosition | None:
        """Move the data set to where the run stopped; None for a sampler."""
        dataset = self.dataloader.dataset
        if not isinstance(dataset, IterableDataset):
            self._restore_sampler()
            return None
        if not hasattr(dataset, 'follow_seed'):
            raise ValueError(
                f'{type(dataset).__name__} is an IterableDataset, which '
                'cannot go on where a run was interrupted: make it a data '
                'set with indices, or use ImageTextShards.'
            )
        dataset.follow_seed(self.runner.seed)
        # Here rather than in a worker, where an error is harder to read.
        dataset.check_split(self.dataloader.num_workers)
        hub = self.runner.message_hub
        if self._iter > 0 and _POSITION_KEY in hub.runtime_info:
            dataset.load_state_dict(
                self._fit_workers(hub.get_info(_POSITION_KEY))
            )
        elif self._iter > 0:
            print_log(
                f'Iteration {self._iter} is resumed from a checkpoint that '
                'does not hold the place in the data: starting at its '
                'beginning',
                logger='current',
                level=logging.WARNING,
            )
        return StreamPosition(dataset.state_dict())

    def _restore_sampler(self) -> None:
        """Start at the first sample of a data set that was not trained."""
        loader, seed = self.dataloader, self.runner.seed
        # Not earlier: a resume takes the seed from its checkpoint.
        loader.dataset.__getitems__ = PlacedLoading(loader.dataset, seed)
        if not isinstance(loader.sampler, DITOInfiniteSampler):
            raise ValueError(
                'Pairs of a data set with indices are trained in an endless '
                f'order, and {type(loader.sampler).__name__} has an end: set '
                "train_dataloader.sampler=dict(type='InfiniteSampler')."
            )
        loader.sampler.seed = seed
        loader.sampler.skip(self._iter * self.turns * loader.batch_size)

    def _workers(self) -> int:
        """Number of workers of each process that take turns."""
        return max(1, self.dataloader.num_workers)

    def _fit_workers(self, state: dict[str, Any]) -> dict[str, Any]:
        """Begin to take turns anew where the number of workers differs."""
        before, now = state.get('workers'), self._workers()
        if before is None or before == now:
            return state
        print_log(
            f'Resuming with {now} workers a process after {before}: every '
            'sample still comes once, but in another order than without the '
            'interruption',
            logger='current',
            level=logging.WARNING,
        )
        return dict(state, base=state['counts'])


def _check_batch(size: int) -> None:
    """Refuse a batch in which nothing can be told apart: its loss is 0."""
    if size and size * get_world_size() < 2:
        raise ValueError(
            'A contrastive loss tells the pairs of a batch apart, and '
            f'train_dataloader.batch_size={size} on one process leaves a '
            'single pair: set it to 2 or more.'
        )


def _check_accumulation(optim_wrapper: Any) -> None:
    """Refuse accumulated gradients, which are not those of a large batch."""
    counts = getattr(optim_wrapper, '_accumulative_counts', 1)
    if counts > 1:
        raise ValueError(
            f'optim_wrapper.accumulative_counts={counts} would average the '
            f'losses of {counts} small batches, whose pairs are never '
            'compared with each other: set train_cfg.total_batch_size '
            'instead, whose micro-batches have the gradient of the large '
            'batch.'
        )
