# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .categories import CategoryTable, build_category_table
from .coco import DITOCocoDataset
from .image_text import (
    DITOClassificationDataset,
    DITOFolderDataset,
    DITORetrievalDataset,
    ImageTextShards,
    image_text_collate,
    imagenet_names,
)
from .load_image import DITOLoadImageFromFile
from .lvis import DITOLVISDataset
from .objects365 import DITOObjects365Dataset
from .ov_dataset import OpenVocabularyDataset
from .placed_samples import DITOInfiniteSampler
from .release_resize import DITOReleaseResize

__all__ = [
    'CategoryTable',
    'DITOClassificationDataset',
    'DITOCocoDataset',
    'DITOFolderDataset',
    'DITOInfiniteSampler',
    'DITOLVISDataset',
    'DITOLoadImageFromFile',
    'DITOObjects365Dataset',
    'DITOReleaseResize',
    'DITORetrievalDataset',
    'ImageTextShards',
    'OpenVocabularyDataset',
    'build_category_table',
    'image_text_collate',
    'imagenet_names',
]
