# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .annotation_checks import KINDS, Finding, SetReport, check_annotations
from .config_checks import check_config, check_files

__all__ = [
    'Finding',
    'KINDS',
    'SetReport',
    'check_annotations',
    'check_config',
    'check_files',
]
