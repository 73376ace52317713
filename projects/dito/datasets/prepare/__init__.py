# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .layouts import LAYOUTS, Conversion, Item, Layout
from .steps import Step, prepare

__all__ = ['Conversion', 'Item', 'LAYOUTS', 'Layout', 'Step', 'prepare']
