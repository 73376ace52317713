# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Hooks of the three stages."""

from .load_report_hook import DITOLoadReportHook
from .vocabulary_hook import DITOVocabularyHook
from .zero_shot_hook import DITOZeroShotHook

__all__ = ['DITOLoadReportHook', 'DITOVocabularyHook', 'DITOZeroShotHook']
