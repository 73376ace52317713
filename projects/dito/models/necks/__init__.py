# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .simple_fpn import SimpleFPN

__all__ = ['SimpleFPN']
