# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Hooks of the three stages."""

from .checkpoint_hook import DITOCheckpointHook
from .ema_hook import DITOEMAHook
from .evaluation_report_hook import DITOEvaluationReportHook
from .iteration_seed_hook import DITOIterationSeedHook
from .load_report_hook import DITOLoadReportHook
from .logger_hook import DITOLoggerHook
from .non_finite_guard_hook import DITONonFiniteGuardHook
from .run_length_masks_hook import DITORunLengthMasksHook
from .throughput_hook import DITOThroughputHook
from .vocabulary_hook import DITOVocabularyHook
from .zero_shot_hook import DITOZeroShotHook

__all__ = [
    'DITOCheckpointHook',
    'DITOEMAHook',
    'DITOEvaluationReportHook',
    'DITOIterationSeedHook',
    'DITOLoadReportHook',
    'DITOLoggerHook',
    'DITONonFiniteGuardHook',
    'DITORunLengthMasksHook',
    'DITOThroughputHook',
    'DITOVocabularyHook',
    'DITOZeroShotHook',
]
