# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
from .categories import CategoryTable, build_category_table
from .image_text import (
    DITOClassificationDataset,
    DITOFolderDataset,
    DITORetrievalDataset,
    ImageTextShards,
    image_text_collate,
    imagenet_names,
)
from .load_image import DITOLoadImageFromFile, DITOReleaseResize
from .objects365 import DITOObjects365Dataset
from .ov_dataset import DITOCocoDataset, DITOLVISDataset, OpenVocabularyDataset
from .placed_samples import DITOInfiniteSampler

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
