# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .dito import DITO
from .frozen_teacher import FrozenTeacher
from .region_classifier import DITORegionClassifier
from .vlm_backbone import VLMBackboneMixin

__all__ = ['DITO', 'DITORegionClassifier', 'FrozenTeacher', 'VLMBackboneMixin']
