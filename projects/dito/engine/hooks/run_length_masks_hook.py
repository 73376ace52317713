# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Masks of evaluations as run lengths."""

from typing import Any

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement


@HOOKS.register_module()
class DITORunLengthMasksHook(Hook):
    """Ask for the masks of an evaluation as run lengths.

    Detectors give dense masks unless they are asked, as MMDetection's do,
    since its clients read them: an array of the size of the image for each
    of 300 detections. Metrics want run lengths, which are made one mask at a
    time (:class:`.RunLengthMasks`).
    """

    def before_val_iter(
        self, runner: Any, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Ask in the samples of a validation."""
        self._ask(data_batch)

    def before_test_iter(
        self, runner: Any, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Ask in the samples of a test."""
        self._ask(data_batch)

    @staticmethod
    def _ask(data_batch: Any) -> None:
        samples: Any = ()
        if isinstance(data_batch, dict):
            samples = data_batch.get('data_samples') or ()
        for sample in samples:
            # Test-time augmentation has a list for each image.
            if isinstance(sample, BaseDataElement):
                sample.set_metainfo(dict(mask_form='rle'))
