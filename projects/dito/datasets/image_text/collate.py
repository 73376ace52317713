# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Batches of images with texts or labels."""

from typing import Any, Dict, List

import numpy as np
import torch
from mmengine.registry import FUNCTIONS


@FUNCTIONS.register_module()
def image_text_collate(samples: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Stack arrays to tensors and keep everything else as lists.

    Args:
        samples (list[dict]): Samples with the same keys. Numpy arrays have
            the same shape in all of them; ``inputs`` is (3, H, W) uint8.

    Returns:
        dict: ``inputs`` (B, 3, H, W) uint8 tensor, ``texts`` and ``keys``
        lists of B strings, further arrays as tensors (B, ...), integers as
        (B,) int64 tensors.
    """
    batch: Dict[str, Any] = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        if isinstance(first, np.ndarray):
            batch[name] = torch.from_numpy(np.stack(values))
        elif isinstance(first, (int, np.integer)):
            batch[name] = torch.tensor(values, dtype=torch.int64)
        else:
            batch[name] = values
    return batch
