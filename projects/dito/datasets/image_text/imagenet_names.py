# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Names of ImageNet's classes for zero-shot classification."""

from collections import Counter
from typing import Tuple


def imagenet_names() -> Tuple[str, ...]:
    """Return the 1,000 names that CLIP's evaluation uses, in label order.

    open_clip's list holds two names twice ('missile', 'sunglasses'), with
    which the classes could not be told apart. Where the first WordNet name
    of such a class, as mmpretrain lists it, is another, it takes its place:
    'projectile' and 'sunglass'.

    Returns:
        tuple[str]: Distinct names.
    """
    from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
    from open_clip import IMAGENET_CLASSNAMES
    counts = Counter(IMAGENET_CLASSNAMES)
    return tuple(
        name if counts[name] == 1 else wordnet.split(',')[0].strip()
        for name, wordnet in zip(IMAGENET_CLASSNAMES, IMAGENET_CATEGORIES,
                                 strict=True))
