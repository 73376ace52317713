# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .flexible_runner import DITOFlexibleRunner

__all__ = ['DITOFlexibleRunner']
