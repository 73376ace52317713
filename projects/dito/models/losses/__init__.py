# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Losses: image-text contrastive ones and cosine distillation."""

from .contrastive_loss import DITOContrastiveLoss
from .cosine_distill_loss import DITOCosineDistillLoss
from .focal_contrastive_loss import DITOFocalContrastiveLoss
from .pair_loss import PairLoss
from .sigmoid_loss import DITOSigmoidLoss

__all__ = [
    'DITOContrastiveLoss',
    'DITOCosineDistillLoss',
    'DITOFocalContrastiveLoss',
    'DITOSigmoidLoss',
    'PairLoss',
]
