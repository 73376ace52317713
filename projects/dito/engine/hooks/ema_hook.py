# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Averaged weights."""

from typing import Any

from mmdet.registry import HOOKS
from mmengine.hooks import EMAHook

from .non_finite_guard_hook import local_part


@HOOKS.register_module()
class DITOEMAHook(EMAHook):
    """MMEngine's :obj:`EMAHook` for all stages and both runners.

    The averages are evaluated and are what a checkpoint's ``state_dict``
    holds; the trained weights are in its ``ema_state_dict``, and a resumed
    run exchanges them. Against MMEngine's:

    - validation hooks that embed class names (:class:`DITOZeroShotHook`)
      run after the averages are in place, whatever their order in the
      config, so that both towers are averaged ones;
    - it resumes under ``FlexibleRunner`` too, which loads before it calls
      ``before_run``;
    - sharded parameters are refused by name rather than by a failing copy.

    Args:
        Those of :obj:`EMAHook`; ``momentum`` is the share of the new
        weights, ``ema_type`` 'ExponentialMovingAverage' by default.
    """

    priority = 'ABOVE_NORMAL'

    def before_run(self, runner: Any) -> None:
        """Copy the model, unless a checkpoint was loaded into the copy."""
        if hasattr(self, 'ema_model'):
            return
        sharded = [
            n
            for n, p in runner.model.named_parameters()
            if local_part(p) is not p
        ]
        if sharded:
            raise ValueError(
                f'DITOEMAHook cannot average sharded parameters such as '
                f'{sharded[0]}; leave it out with DITOFSDPStrategy, or train '
                'with DistributedDataParallel.'
            )
        super().before_run(runner)

    def after_load_checkpoint(
        self, runner: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Take over the averages of a resumed run."""
        self.before_run(runner)
        super().after_load_checkpoint(runner, checkpoint)
