# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Values that are NaN or infinite, on any process; where they come from."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.dist import (
    all_gather_object,
    all_reduce,
    get_rank,
    is_main_process,
)
from mmengine.hooks import Hook
from torch import Tensor, nn

from dito.models.utils import unwrap_model
from dito.utils.files import write_json


class NonFiniteError(FloatingPointError):
    """A loss, a gradient or a weight is NaN or infinite."""


def non_finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Pick the scalars, tensors or numbers, that are NaN or infinite."""
    tensors = {n: v for n, v in values.items() if isinstance(v, Tensor)}
    numbers = {n: float(v) for n, v in values.items() if n not in tensors}
    if tensors:
        # One transfer from the device, however many values there are.
        row = torch.stack(
            [v.detach().double().reshape(()) for v in tensors.values()]
        )
        numbers.update(zip(tensors, row.tolist(), strict=True))
    return {n: v for n, v in numbers.items() if not math.isfinite(v)}


def anywhere(flag: bool) -> bool:
    """Whether a flag is set on any process; every process must ask."""
    value = torch.tensor(float(flag))
    all_reduce(value, op='max')
    return bool(value)


def non_finite_weights(model: nn.Module) -> list[str]:
    """Name the parameters that are not finite, of sharded ones here."""
    named = [(n, local_part(p.detach())) for n, p in model.named_parameters()]
    if not named:
        return []
    flags = torch.stack([torch.isfinite(p).all() for _, p in named])
    return [
        n for (n, _), ok in zip(named, flags.tolist(), strict=True) if not ok
    ]


def local_part(value: Tensor) -> Tensor:
    """Return the part of a tensor that lies on this process."""
    return value.to_local() if hasattr(value, 'to_local') else value


def require_finite_weights(
    model: nn.Module, step: int, last: str | None
) -> None:
    """Refuse weights that are not finite; every process must call this.

    ``step`` is where they would be saved, ``last`` the checkpoint before.

    Raises:
        NonFiniteError: On all processes, if a weight on any is not finite.
    """
    names = non_finite_weights(model)
    if anywhere(bool(names)):
        kept = f'the last one stays {last}' if last else 'none was saved yet'
        raise NonFiniteError(
            f'{len(names)} weights are not finite at step {step} '
            f'({", ".join(names[:5]) or "on another rank"}): the checkpoint '
            f'is not saved, {kept}. Lower the learning rate, clip gradients '
            '(optim_wrapper.clip_grad), or look at the data.'
        )


_SHOWN = 8


@HOOKS.register_module()
class DITONonFiniteGuardHook(Hook):
    """Stop at the first step whose loss or gradient is not finite.

    All processes stop together, also when the value is bad on one of them.
    The message names the step, and for each rank concerned the terms and the
    samples of its batch; all of them are in ``non_finite_iter_STEP.json`` in
    the work folder. Nothing is saved after, so that the last checkpoint is
    one from before the step. Works with every loop and model of MMEngine.

    The norm of the gradients is looked at where ``optim_wrapper.clip_grad``
    is set, which computes it. Weights are looked at when a checkpoint is
    saved, by :class:`DITOCheckpointHook`.
    """

    # After the scalars are logged, before anything is averaged or saved.
    priority = 'ABOVE_NORMAL'

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Look at a step; NonFiniteError if a value on any rank is bad."""
        bad = non_finite(self._values(runner, outputs or {}))
        if not anywhere(bool(bad)):
            return
        mine = dict(
            rank=get_rank(),
            terms={n: str(v) for n, v in bad.items()},
            samples=sample_names(data_batch),
        )
        reports = [r for r in all_gather_object(mine) if r['terms']]
        step = runner.iter + 1
        path = Path(runner.work_dir) / f'non_finite_iter_{step}.json'
        if is_main_process():
            write_json(path, dict(step=step, ranks=reports), indent=1)
        raise NonFiniteError(
            f'Step {step}: {"; ".join(map(_describe, reports))}. Nothing is '
            f'saved after step {step - 1}; {path} lists all samples. To go '
            'on, lower the learning rate, clip gradients '
            '(optim_wrapper.clip_grad) or remove a broken sample, then use '
            '--resume.'
        )

    def _values(self, runner: Any, outputs: dict[str, Any]) -> dict[str, Any]:
        """Losses of this rank, those of all ranks, and the gradient norm."""
        model = unwrap_model(runner.model)
        values = {n: v for n, v in outputs.items() if 'loss' in n}
        # Logged losses are means over ranks: which value is bad is shown by
        # those of this rank alone.
        own = getattr(model, 'local_log_vars', None)
        if own:
            values.update({n: v for n, v in own.items() if 'loss' in n})
        norms = runner.message_hub.log_scalars.get('train/grad_norm')
        if norms is not None:
            values['grad_norm'] = norms.current()
        return values


def sample_names(batch: Any) -> list[str]:
    """``keys`` of an image-text batch, or paths of ``data_samples``."""
    if not isinstance(batch, dict):
        return []
    if 'keys' in batch:
        return [str(key) for key in batch['keys']]
    samples = batch.get('data_samples') or []
    return [
        str(s.metainfo.get('img_path', s.metainfo.get('img_id', '?')))
        for s in samples
        if hasattr(s, 'metainfo')
    ]


def _describe(report: dict[str, Any]) -> str:
    terms = ', '.join(f'{n} is {v}' for n, v in report['terms'].items())
    names = report['samples']
    more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
    batch = f' on the batch {", ".join(names[:_SHOWN])}{more}'
    return f'{terms} on rank {report["rank"]}{batch if names else ""}'
