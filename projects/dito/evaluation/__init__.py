# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .zero_shot import DITOZeroShotMetric

__all__ = ['DITOZeroShotMetric']
