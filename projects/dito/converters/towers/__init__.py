# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Conversion of public image-text towers to DITO's."""

from .convert import ConvertedTower, convert_tower, feature_error
from .key_report import KeyReport, resample_kernel, resample_tower
from .source import TowerSource, read_source

__all__ = [
    'ConvertedTower',
    'KeyReport',
    'TowerSource',
    'convert_tower',
    'feature_error',
    'read_source',
    'resample_kernel',
    'resample_tower',
]
