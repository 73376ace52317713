# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .dito import DITO
from .frozen_backbones import FrozenTeacher, VLMBackboneMixin
from .region_classifier import DITORegionClassifier

__all__ = ['DITO', 'DITORegionClassifier', 'FrozenTeacher', 'VLMBackboneMixin']
