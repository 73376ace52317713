# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .collate import image_text_collate
from .folder_classes import DITOFolderDataset
from .imagenet_names import imagenet_names
from .labelled_images import DITOClassificationDataset
from .position import StreamPosition
from .retrieval_pairs import DITORetrievalDataset
from .shards import ImageTextShards
from .transforms import CropTransform

__all__ = [
    'CropTransform', 'DITOClassificationDataset', 'DITOFolderDataset',
    'DITORetrievalDataset', 'ImageTextShards', 'StreamPosition',
    'image_text_collate', 'imagenet_names'
]
