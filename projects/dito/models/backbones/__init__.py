# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .dito_vit import DITOViT
from .embed_head import EmbedHead
from .vit_layers import (
    DITOConvStem,
    crop_pos_embed,
    random_crop_boxes,
    resize_pos_embed,
)

__all__ = [
    'DITOConvStem',
    'DITOViT',
    'EmbedHead',
    'crop_pos_embed',
    'random_crop_boxes',
    'resize_pos_embed',
]
