# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Programming interface: load a detector, name objects, find them."""

from dito.models.text.name_files import parse_names

from .films import Film
from .hub import (
    load_pretrained,
    package_model,
    push_to_hub,
    save_pretrained,
)
from .index import Hit, Index
from .inferencer import DITOInferencer
from .model_file import load_model_source, save_model
from .scene import Scene
from .similarity import SimilarityMaps, TextSimilarity

__all__ = [
    'DITOInferencer',
    'Film',
    'Hit',
    'Index',
    'Scene',
    'SimilarityMaps',
    'TextSimilarity',
    'load_model_source',
    'load_pretrained',
    'package_model',
    'parse_names',
    'push_to_hub',
    'save_model',
    'save_pretrained',
]
