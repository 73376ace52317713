# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Weights of the authors' release, converted to this package's names."""

from .box_head import convert_box_head
from .detector import convert_official
from .fpn import convert_fpn
from .layout import OfficialSizes
from .mask_head import convert_mask_head
from .rpn_head import convert_rpn_head
from .vit import convert_vit

__all__ = [
    'OfficialSizes',
    'convert_box_head',
    'convert_fpn',
    'convert_mask_head',
    'convert_official',
    'convert_rpn_head',
    'convert_vit',
]
