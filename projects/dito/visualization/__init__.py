# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Objects and heat maps drawn into pictures, and MMDetection's visualiser."""

from .drawing import draw_heat_map, draw_objects
from .local_visualizer import DITOLocalVisualizer
from .objects import ShownObject

__all__ = [
    'DITOLocalVisualizer',
    'ShownObject',
    'draw_heat_map',
    'draw_objects',
]
