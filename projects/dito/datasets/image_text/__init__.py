# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .collate import image_text_collate
from .folder_classes import DITOFolderDataset
from .position import StreamPosition
from .shards import ImageTextShards
from .transforms import CropTransform

__all__ = [
    'CropTransform', 'DITOFolderDataset', 'ImageTextShards', 'StreamPosition',
    'image_text_collate'
]
