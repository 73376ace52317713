# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Weights of the authors' release, converted to this package's names."""

from .fpn import convert_fpn
from .vit import convert_vit

__all__ = ['convert_fpn', 'convert_vit']
