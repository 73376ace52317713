# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Losses: image-text contrastive ones and cosine distillation."""

from .losses import (
    DITOContrastiveLoss,
    DITOCosineDistillLoss,
    DITOFocalContrastiveLoss,
    DITOSigmoidLoss,
    PairLoss,
)

__all__ = [
    'DITOContrastiveLoss',
    'DITOCosineDistillLoss',
    'DITOFocalContrastiveLoss',
    'DITOSigmoidLoss',
    'PairLoss',
]
