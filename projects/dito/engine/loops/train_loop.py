# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Loops of detection: training in batches of any size, several validations."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.registry import LOOPS
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.runner import ValLoop
from torch import Tensor
from torch.utils.data import DataLoader

from dito.datasets.placed_samples import (
    DITOInfiniteSampler,
    PlacedLoading,
    placed_sampler,
)
from dito.models.utils import unwrap_model

from ..hooks.iteration_seed_hook import seed_generators
from ..hooks.vocabulary_hook import DITOZeroShotHook
from .whole_batch import BatchPlan, WholeBatchLoop, plan_batch, scales_lr

Batch = dict[str, Any]


@LOOPS.register_module()
class DITOTrainLoop(WholeBatchLoop):
    """Iterations that train the batch of the schedule, on any machine.

    ``total_batch_size`` images make a step, however many processes share
    them: each process takes as many batches of its loader as are needed, one
    after the other, and their mean loss is trained. Everything counts steps:
    iterations, schedules, logs, checkpoints, validations, hooks and a
    resume. Gradients are exchanged, clipped and checked once per step; what is
    logged is the mean over the step.

    A step has the same samples, in the same batches, with the same random
    augmentation and sampling of boxes, for every number of processes, also
    after a resume with another one. This needs MMEngine's
    ``InfiniteSampler``, which is replaced by :class:`DITOInfiniteSampler`;
    with another sampler a step has its samples in other batches.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader or dict): Its ``batch_size`` is the number of
            images that a device takes at a time, over which means of losses
            run.
        total_batch_size (int, optional): Images of a step. Defaults to None,
            one batch of every process; so it is where the learning rate
            follows the batch (``auto_scale_lr.enable``).
        **kwargs: Of :obj:`IterBasedTrainLoop`: ``max_iters``, ``val_begin``,
            ``val_interval`` and ``dynamic_intervals``, in steps.

    Raises:
        ValueError: If the batch cannot come out.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        *,
        total_batch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        built = isinstance(dataloader, DataLoader)
        size = dataloader.batch_size if built else dataloader['batch_size']
        if total_batch_size is None or scales_lr(runner):
            total_batch_size = size * get_world_size()
        self.plan = plan_batch(total_batch_size, get_world_size(), size)
        _check_smaller_batch(self.plan, size, built)
        if not built:
            dataloader = placed_sampler(
                dict(dataloader, batch_size=self.plan.images), self.plan.images
            )
        super().__init__(runner, dataloader, **kwargs)
        self._passes = 0

    def _step(self) -> None:
        self.run_iter(self._next_batch())

    def run_iter(self, data_batch: Batch) -> None:
        """Make one step; batches after the first come from the loader."""
        runner = self.runner
        runner.call_hook(
            'before_train_iter', batch_idx=self._iter, data_batch=data_batch
        )
        core = unwrap_model(runner.model)
        batches: list[Batch] = []
        logged: list[dict[str, Any]] = []
        own: list[dict[str, Any]] = []
        for piece in range(self.plan.pieces):
            if piece:
                data_batch = self._next_batch()
            # What the model draws follows the batch, as its samples do.
            seed_generators(
                runner.seed, self._iter, piece * get_world_size() + get_rank()
            )
            outputs = runner.model.train_step(
                data_batch, optim_wrapper=runner.optim_wrapper
            )
            batches.append(data_batch)
            logged.append(_detached(outputs))
            own.append(getattr(core, 'local_log_vars', {}))
        outputs = _mean(logged)
        if own[0]:
            core.local_log_vars = _mean(own)
        outputs.update(self._meter.step(self.plan.total))
        runner.call_hook(
            'after_train_iter',
            batch_idx=self._iter,
            data_batch=_joined(batches),
            outputs=outputs,
        )
        self._iter += 1

    def _check(self) -> None:
        """Let the optimizer wrapper step once in as many batches."""
        print_log(str(self.plan), logger='current')
        pieces, wrapper = self.plan.pieces, self.runner.optim_wrapper
        counts = getattr(wrapper, '_accumulative_counts', None)
        if pieces == 1:
            return
        if not isinstance(wrapper, OptimWrapper) or counts != 1:
            raise ValueError(
                f'{self.plan} needs one optimizer wrapper that does not '
                f'accumulate by itself, got a {type(wrapper).__name__} with '
                f'accumulative_counts={counts}: leave accumulative_counts '
                'out, or train_cfg.total_batch_size.'
            )
        wrapper._accumulative_counts = pieces
        wrapper.initialize_count_status(
            self.runner.model, self._iter * pieces, self._max_iters * pieces
        )

    def _go_on(self) -> None:
        """Start the loader at the first sample that was not trained."""
        loader, seed = self.dataloader, self.runner.seed
        # Not earlier: a resume takes the seed from its checkpoint.
        loader.dataset.__getitems__ = PlacedLoading(loader.dataset, seed)
        batches = self._iter * self.plan.pieces
        if isinstance(loader.sampler, DITOInfiniteSampler):
            loader.sampler.seed = seed
            loader.sampler.skip(batches * self.plan.images)
            batches = 0
        self._passes, rest = divmod(batches, len(loader))
        self._start_pass()
        for _ in range(rest):
            self._next_batch()

    def _start_pass(self) -> None:
        """Start the loader anew, in the order of another pass."""
        if hasattr(self.dataloader.sampler, 'set_epoch'):
            self.dataloader.sampler.set_epoch(self._passes)
        self._batches = iter(self.dataloader)

    def _next_batch(self) -> Batch:
        """Take a batch from the loader and measure the wait."""
        begin = time.perf_counter()
        batch = next(self._batches, None)
        if batch is None:
            self._passes += 1
            self._start_pass()
            batch = next(self._batches)
        self._meter.wait(time.perf_counter() - begin)
        return batch


def _check_smaller_batch(plan: BatchPlan, size: int, built: bool) -> None:
    """Say that a process takes fewer images at a time than the config."""
    if plan.images == size:
        return
    if built:
        raise ValueError(
            f'{plan}, but the data loader was built for {size} images: give '
            'the runner a config of it, or a loader of that size.'
        )
    print_log(
        f'{plan}: means of losses run over {plan.images} images instead of '
        f'train_dataloader.batch_size={size}, which does not divide the '
        f'{plan.share} of a process.',
        logger='current',
        level=logging.WARNING,
    )


def _detached(values: Mapping[str, Any]) -> dict[str, Any]:
    """Let go of the graph of a piece."""
    return {
        name: value.detach() if isinstance(value, Tensor) else value
        for name, value in values.items()
    }


def _mean(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average what was logged of each piece; not all need have all values."""
    names = dict.fromkeys(name for piece in pieces for name in piece)
    return {
        name: _mean_of([piece[name] for piece in pieces if name in piece])
        for name in names
    }


def _mean_of(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else sum(values) / len(values)


def _joined(batches: Sequence[Any]) -> Any:
    """Make one batch of several, for what looks at the whole step."""
    first = batches[0]
    if len(batches) == 1:
        return first
    if isinstance(first, Mapping):
        return {name: _joined([b[name] for b in batches]) for name in first}
    if isinstance(first, Tensor):
        return torch.cat(batches)
    if isinstance(first, (list, tuple)):
        return [item for batch in batches for item in batch]
    return list(batches)


@LOOPS.register_module()
class DITOMultiValLoop(ValLoop):
    """Evaluate the runner's validation set and further ones.

    All sets make one validation: hooks and ``save_best`` see the metrics of
    all of them together. A set with class names gets its vocabulary from the
    runner's :class:`DITOZeroShotHook`; one without, such as
    :class:`DITORetrievalDataset`, needs none.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader or dict): The first set.
        evaluator (Evaluator or dict or list): Its metrics.
        fp16 (bool): Whether to use half precision. Defaults to False.
        extra (sequence[dict]): ``dataloader`` and ``evaluator`` of each
            further set. Metrics of one kind need different ``prefix``.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        evaluator: Any,
        fp16: bool = False,
        extra: Sequence[dict] = (),
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.extra: list[ValLoop] = []
        for number, cfg in enumerate(extra):
            if set(cfg) != {'dataloader', 'evaluator'}:
                raise ValueError(
                    f'extra[{number}] has {sorted(cfg)}, expected '
                    "'dataloader' and 'evaluator'"
                )
            self.extra.append(ValLoop(runner, **cfg, fp16=fp16))
        # The visualizer follows the last loop that was built.
        runner.visualizer.dataset_meta = getattr(
            self.dataloader.dataset, 'metainfo', None
        )

    def run(self) -> dict[str, float]:
        """Evaluate all sets; ValueError if two have a metric of one name."""
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        metrics: dict[str, float] = {}
        for loop in (self, *self.extra):
            if loop is not self:
                self._set_vocabulary(loop)
            found = self._evaluate(loop)
            shared = sorted(set(found) & set(metrics))
            if shared:
                raise ValueError(
                    f'two validation sets have the metrics {shared}; give '
                    "their evaluators different 'prefix'"
                )
            metrics.update(found)
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    def _set_vocabulary(self, loop: ValLoop) -> None:
        """Let the zero-shot hook embed the names of a set."""
        for hook in self.runner.hooks:
            if isinstance(hook, DITOZeroShotHook):
                hook.set_vocabulary(self.runner, loop.dataloader)

    @staticmethod
    def _evaluate(loop: ValLoop) -> dict[str, float]:
        """Run through one set."""
        for number, batch in enumerate(loop.dataloader):
            loop.run_iter(number, batch)
        return loop.evaluator.evaluate(len(loop.dataloader.dataset))
