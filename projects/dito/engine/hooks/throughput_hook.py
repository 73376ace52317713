# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The log of a run, and the speed that is logged."""

from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import get_world_size
from mmengine.hooks import Hook, LoggerHook

from dito.models.utils import unwrap_model

from ..telemetry import only_reports, said_once
from ..throughput import ThroughputMeter, step_flops


@HOOKS.register_module()
@only_reports
class DITOThroughputHook(Hook):
    """Log images per second, waiting for data, and use of the device.

    ``images_per_second`` (of all processes) and ``loader_wait`` (share of
    the time) are averages over 50 iterations; :class:`ImageTextTrainLoop`
    measures them itself. In stages 1 and 2 ``tflops`` is the useful work of
    a process in 10^12 operations a second, counted once by
    :mod:`dito.engine.throughput`, and ``mfu`` its share of ``peak_tflops``.

    Args:
        peak_tflops (float, optional): What a device can do at most in the
            type that is trained in, in 10^12 operations a second, from its
            data sheet (H100 SXM in bfloat16: 989, A100: 312). Defaults to
            None, unknown: no ``mfu`` is logged.
    """

    # Before the logger, after the loop's own values are there.
    priority = 'ABOVE_NORMAL'

    def __init__(self, peak_tflops: float | None = None) -> None:
        if peak_tflops is not None and peak_tflops <= 0:
            raise ValueError(
                f'peak_tflops must be positive, got {peak_tflops}; leave it '
                'out if it is not known.'
            )
        self.peak_tflops = peak_tflops
        self._meter = ThroughputMeter()
        self._flops: int | None = None

    def before_train(self, runner: Any) -> None:
        """Start the clock."""
        self._meter.start()

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Count the time since the last iteration as waiting for data."""
        self._meter.wait_since_last()

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Leave the validation out."""
        self._meter.start()

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Log the figures of the last iterations."""
        world_size = get_world_size()
        images = len(data_batch['inputs'])
        figures = self._meter.step(images * world_size)
        if 'images_per_second' in (outputs or {}):
            rate = float(outputs['images_per_second'])
            figures = {}
        else:
            rate = figures['images_per_second']
        if self._flops is None:
            model = unwrap_model(runner.model)
            self._flops = 0
            with said_once(self, 'The count of operations'):
                self._flops = step_flops(model, data_batch)
        if self._flops:
            figures['tflops'] = self._flops * rate / world_size / 1e12
            if self.peak_tflops is not None:
                figures['mfu'] = figures['tflops'] / self.peak_tflops
        for name, value in figures.items():
            runner.message_hub.update_scalar(f'train/{name}', value)


@HOOKS.register_module()
@only_reports
class DITOLoggerHook(LoggerHook):
    """MMEngine's logger, whose errors end no run.

    A full disk, a service that is down or a value that cannot be written is
    a warning, once; the run goes on. Args: those of :obj:`LoggerHook`.
    """
