# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .labelled_images import (
    DITOClassificationDataset,
    DITOFolderDataset,
    imagenet_names,
)
from .position import StreamPosition
from .retrieval_pairs import DITORetrievalDataset
from .shards import ImageTextShards
from .transforms import CropTransform, image_text_collate

__all__ = [
    'CropTransform',
    'DITOClassificationDataset',
    'DITOFolderDataset',
    'DITORetrievalDataset',
    'ImageTextShards',
    'StreamPosition',
    'image_text_collate',
    'imagenet_names',
]
