# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Text tower, prompts and vocabularies."""

from .name_checks import readable_name, resolve_templates
from .text_encoder import BaseTextEncoder, DITOTextEncoder
from .vocabulary import Vocabulary

__all__ = [
    'BaseTextEncoder',
    'DITOTextEncoder',
    'Vocabulary',
    'readable_name',
    'resolve_templates',
]
