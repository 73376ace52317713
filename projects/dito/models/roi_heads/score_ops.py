# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Logits of open-vocabulary scores.

They are computed in float32, under autocast too: cosines are divided by a
temperature of 0.01, so a bfloat16 cosine would be off by half a logit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_logits(features: Tensor, text: Tensor,
                  temperature: Tensor | float) -> Tensor:
    """Cosine of every feature with every text, over a temperature.

    Args:
        features (Tensor): Region features of any scale, shape (N, D). A zero
            row has cosine 0 with everything.
        text (Tensor): Text features of any scale, shape (K, D).
        temperature (Tensor | float): A positive scalar.

    Returns:
        Tensor: Logits, float32, shape (N, K).
    """
    with torch.autocast(features.device.type, enabled=False):
        features = F.normalize(features.float(), dim=-1)
        text = F.normalize(text.float(), dim=-1)
        return features @ text.mT / temperature
