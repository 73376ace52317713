# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .dito import DITO
from .frozen_teacher import FrozenTeacher

__all__ = ['DITO', 'FrozenTeacher']
