# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Weights of the authors' release, converted to this package's names."""

from .convert import (
    convert_box_head,
    convert_fpn,
    convert_mask_head,
    convert_official,
    convert_rpn_head,
    convert_vit,
)
from .layout import OfficialSizes

__all__ = [
    'OfficialSizes',
    'convert_box_head',
    'convert_fpn',
    'convert_mask_head',
    'convert_official',
    'convert_rpn_head',
    'convert_vit',
]
