# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pure functions of open-vocabulary scores: cosine logits and ensemble.

All of them compute in float32, under autocast too: cosines are divided by a
temperature of 0.01, so a bfloat16 cosine would be off by half a logit.
"""

from typing import Optional

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


def ensemble_scores(det_logits: Tensor,
                    vlm_logits: Optional[Tensor],
                    novel: Tensor,
                    alpha: float = 0.3,
                    beta: float = 0.65,
                    renormalise: bool = True) -> Tensor:
    """Geometric mean of detection and VLM scores (paper eq. 2).

    With ``p`` the softmax of the detector's logits and ``z`` that of the
    VLM's, the score of a base class is ``p^(1-alpha) z^alpha``, that of a
    novel class ``p^(1-beta) z^beta``; the background keeps ``p``. Here the
    exponents belong to ``z``, as in F-VLM and the release; the paper prints
    them the other way round. ``alpha = beta = 0`` leaves ``p``.

    Args:
        det_logits (Tensor): Shape (N, K + 1), background last.
        vlm_logits (Tensor, optional): Shape (N, K), or (N, K + 1) where the
            background takes part in the softmax (release). None: no VLM.
        novel (Tensor): Which classes are novel, bool, shape (K, ).
        alpha (float): Exponent of ``z`` for base classes. Defaults to 0.3.
        beta (float): Exponent of ``z`` for novel classes. Defaults to 0.65.
        renormalise (bool): Whether to divide by the sum over all columns
            (release; the paper does not say). Defaults to True.

    Returns:
        Tensor: Scores, float32, shape (N, K + 1), background last.
    """
    log_p = det_logits.float().log_softmax(dim=-1)
    if vlm_logits is None:
        return log_p.exp()
    num_classes = novel.numel()
    log_z = vlm_logits.float().log_softmax(dim=-1)[:, :num_classes]
    weight = torch.where(novel, beta, alpha).to(log_p)
    classes = (1 - weight) * log_p[:, :num_classes] + weight * log_z
    scores = torch.cat([classes, log_p[:, num_classes:]], dim=1).exp()
    if renormalise:
        scores = scores / scores.sum(dim=1, keepdim=True)
    return scores
