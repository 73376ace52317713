# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .box_ops import (
    DITOCellAlign,
    DITOPlusOneBBoxCoder,
    DITORoIExtractor,
    topk_class_nms,
)
from .dito_bbox_head import DITOBBoxHead
from .dito_mask_head import DITOMaskHead
from .dito_roi_head import DITORoIHead
from .geometric_ensemble import GeometricEnsemble, cosine_logits

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
