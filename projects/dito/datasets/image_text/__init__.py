# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .evaluation_sets import (
    DITOClassificationDataset,
    DITOFolderDataset,
    DITORetrievalDataset,
    imagenet_names,
)
from .shards import ImageTextShards
from .streams import StreamPosition
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
