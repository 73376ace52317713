# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Hooks of the three stages."""

from .checkpoint_hook import DITOCheckpointHook
from .compile_hook import DITOCompileHook
from .ema_hook import DITOEMAHook
from .evaluation_report_hook import (
    DITOEvaluationReportHook,
    DITORunLengthMasksHook,
)
from .iteration_seed_hook import DITOIterationSeedHook
from .load_report_hook import DITOLoadReportHook
from .non_finite_guard_hook import DITONonFiniteGuardHook
from .throughput_hook import DITOLoggerHook, DITOThroughputHook
from .vocabulary_hook import DITOVocabularyHook, DITOZeroShotHook

__all__ = [
    'DITOCheckpointHook',
    'DITOCompileHook',
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
