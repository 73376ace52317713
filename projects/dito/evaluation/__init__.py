# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .coco_ov_metric import DITOCocoMetric
from .lvis_backends import evaluate_lvis
from .lvis_detections import LVISDetections
from .lvis_ground_truth import LVISGroundTruth
from .lvis_metric import DITOLVISMetric
from .region_metric import DITORegionMetric
from .retrieval import DITORetrievalMetric
from .zero_shot import DITOZeroShotMetric

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
