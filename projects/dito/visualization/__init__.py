# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pictures of detections and text similarity, curves, and the report."""

from .detections import draw_objects
from .heat_map import draw_heat_map
from .local_visualizer import DITOLocalVisualizer
from .quickstart import (
    held_out_figure,
    quickstart_figure,
    quickstart_report,
)
from .readme_figure import readme_figure
from .report import ReportData, write_report
from .shown_object import ShownObject
from .similarity import SimilarityMaps, TextSimilarity
from .training_log import StageLog

__all__ = [
    'DITOLocalVisualizer',
    'ReportData',
    'ShownObject',
    'SimilarityMaps',
    'StageLog',
    'TextSimilarity',
    'draw_heat_map',
    'draw_objects',
    'held_out_figure',
    'quickstart_figure',
    'quickstart_report',
    'readme_figure',
    'write_report',
]
