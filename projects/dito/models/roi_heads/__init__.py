# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .cell_align import DITOCellAlign
from .dito_bbox_head import DITOBBoxHead
from .dito_mask_head import DITOMaskHead
from .dito_roi_extractor import DITORoIExtractor
from .dito_roi_head import DITORoIHead
from .geometric_ensemble import GeometricEnsemble
from .nms_ops import topk_class_nms
from .plus_one_bbox_coder import DITOPlusOneBBoxCoder
from .score_ops import cosine_logits

__all__ = [
    'DITOBBoxHead',
    'DITOCellAlign',
    'DITOMaskHead',
    'DITOPlusOneBBoxCoder',
    'DITORoIExtractor',
    'DITORoIHead',
    'GeometricEnsemble',
    'cosine_logits',
    'topk_class_nms',
]
