# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Validation on several sets."""

from collections.abc import Sequence
from typing import Any

from mmdet.registry import LOOPS
from mmengine.runner import ValLoop

from ..hooks.zero_shot_hook import DITOZeroShotHook


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
        """Evaluate all sets.

        Returns:
            dict[str, float]: Metrics of all sets.

        Raises:
            ValueError: If two sets have a metric of one name.
        """
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
