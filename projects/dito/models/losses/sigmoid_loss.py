# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pairwise sigmoid loss."""

from typing import Optional

from mmdet.registry import MODELS
from torch import Tensor, nn

from .contrastive_ops import (
    check_pairs,
    full_precision,
    gather_rows,
    normalize,
    sigmoid_pair_loss,
    similarity,
)


@MODELS.register_module()
class DITOSigmoidLoss(nn.Module):
    """Pairwise sigmoid loss of SigLIP, an alternative to InfoNCE.

    Every entry of the similarity matrix is a yes/no decision; the sum is
    divided by the number of pairs. Exact over ranks like
    :class:`DITOContrastiveLoss`.

    Args:
        logit_bias (float): Bias used where the call gives none. Defaults to
            -10.0, the start value of SigLIP.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    def __init__(self,
                 logit_bias: float = -10.0,
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        self.logit_bias = logit_bias
        self.loss_weight = loss_weight

    def forward(self,
                image: Tensor,
                text: Tensor,
                logit_scale: Tensor,
                logit_bias: Optional[Tensor] = None) -> Tensor:
        """Compute the loss in float32.

        Args:
            image (Tensor): This rank's image embeddings, shape (n, D).
            text (Tensor): Embeddings of their texts, shape (n, D).
            logit_scale (Tensor): Factor on the cosine, scalar.
            logit_bias (Tensor, optional): Learnt bias, scalar. Defaults to
                None, which means the constructor's value.

        Returns:
            Tensor: Scalar share of this rank.
        """
        check_pairs(image, text)
        image = normalize(image)
        texts = gather_rows(normalize(text))
        logits = similarity(image, texts.rows, logit_scale)
        if logit_bias is None:
            logits = logits + self.logit_bias
        else:
            logits = logits + full_precision(logit_bias)
        total = sigmoid_pair_loss(logits, texts.positives(image.shape[0]))
        share = texts.world_size / max(texts.rows.shape[0], 1)
        return self.loss_weight * total * share
