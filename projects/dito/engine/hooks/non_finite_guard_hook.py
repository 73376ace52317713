# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Stop a run whose loss is NaN or infinite, and say where it came from."""

from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import all_gather_object, get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from dito.utils.files import write_json

from ..finite import NonFiniteError, anywhere, non_finite

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
        """Look at the values of a step.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Number of the batch.
            data_batch (dict): The batch, with ``keys`` or ``data_samples``.
            outputs (dict, optional): What ``train_step`` returned.

        Raises:
            NonFiniteError: If a value on any rank is not finite.
        """
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
        model = runner.model
        model = model.module if is_model_wrapper(model) else model
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
    """Name the samples of a batch.

    Args:
        batch (dict): Image-text batch with ``keys``, or detection batch
            with ``data_samples``.

    Returns:
        list[str]: Keys, or paths of images; empty if neither is known.
    """
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
