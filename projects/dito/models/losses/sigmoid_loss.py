# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pairwise sigmoid loss."""

from typing import Optional

from mmdet.registry import MODELS
from torch import Tensor

from .contrastive_ops import (
    Pairs,
    full_precision,
    sigmoid_pair_loss,
    similarity,
)
from .pair_loss import PairLoss


@MODELS.register_module()
class DITOSigmoidLoss(PairLoss):
    """Pairwise sigmoid loss of SigLIP, an alternative to InfoNCE.

    Every entry of the similarity matrix is a yes/no decision; the sum is
    divided by the number of pairs. Exact over ranks, see
    :class:`PairLoss`.

    Args:
        logit_bias (float): Bias used where the call gives none. Defaults to
            -10.0, the start value of SigLIP.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
        row_chunk (int, optional): Rows of the matrix held at a time.
            Defaults to None, all.
    """

    uses_bias = True

    def __init__(self,
                 logit_bias: float = -10.0,
                 loss_weight: float = 1.0,
                 row_chunk: Optional[int] = None) -> None:
        super().__init__(loss_weight, row_chunk)
        self.logit_bias = logit_bias

    def row_sum(self, pairs: Pairs, logit_scale: Tensor,
                logit_bias: Optional[Tensor]) -> Tensor:
        """Sum the decisions of some images over all texts."""
        logits = similarity(pairs.image, pairs.texts, logit_scale)
        if logit_bias is None:
            logits = logits + self.logit_bias
        else:
            logits = logits + full_precision(logit_bias)
        return sigmoid_pair_loss(logits, pairs.targets())
