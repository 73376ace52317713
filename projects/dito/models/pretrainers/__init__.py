# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Image-text pretraining: CLIP (stage 1), region-centric (stage 2)."""

from .clip_pretrainer import CLIPPretrainer
from .image_text_pretrainer import ImageTextPreprocessor, ImageTextPretrainer
from .pyramid_pretrainer import FrozenTowerPretrainer, PyramidPretrainer
from .random_regions import BatchPlace, RandomRegions
from .region_centric_pretrainer import RegionCentricPretrainer

__all__ = [
    'BatchPlace',
    'CLIPPretrainer',
    'FrozenTowerPretrainer',
    'ImageTextPreprocessor',
    'ImageTextPretrainer',
    'PyramidPretrainer',
    'RandomRegions',
    'RegionCentricPretrainer',
]
