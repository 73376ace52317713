# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .average_precision import evaluate_lvis
from .classification import DITORegionMetric, DITOZeroShotMetric
from .coco_ov_metric import DITOCocoMetric
from .detections import LVISDetections
from .ground_truth import LVISGroundTruth
from .lvis_metric import DITOLVISMetric
from .retrieval import DITORetrievalMetric

__all__ = [
    'DITOCocoMetric',
    'DITOLVISMetric',
    'DITORegionMetric',
    'DITORetrievalMetric',
    'DITOZeroShotMetric',
    'LVISDetections',
    'LVISGroundTruth',
    'evaluate_lvis',
]
