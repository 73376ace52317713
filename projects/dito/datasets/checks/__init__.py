# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .annotation_checks import check_annotations
from .config_checks import check_config, check_files
from .findings import KINDS, Finding, SetReport

__all__ = [
    'Finding',
    'KINDS',
    'SetReport',
    'check_annotations',
    'check_config',
    'check_files',
]
