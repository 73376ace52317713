# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Focal contrastive loss."""

from typing import Optional

from mmdet.registry import MODELS
from torch import Tensor

from .contrastive_ops import Pairs, focal_matrix_loss, similarity
from .pair_loss import PairLoss


@MODELS.register_module()
class DITOFocalContrastiveLoss(PairLoss):
    """Sigmoid focal loss over the similarity matrix (RO-ViT).

    An alternative to the InfoNCE loss that RO-ViT uses and the paper
    replaces. As in the release the loss is the sum over the whole matrix,
    times two; divide it by ``normalizer`` to keep it apart from the batch.
    Exact over ranks, see :class:`PairLoss`.

    Args:
        alpha (float): Weight of the pairs, the rest get ``1 - alpha``.
            Defaults to 0.5.
        gamma (float): Focusing exponent. Defaults to 1.0.
        normalizer (float, optional): Divisor of the sum. Defaults to None,
            which means 1.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
        row_chunk (int, optional): Rows of the matrix held at a time.
            Defaults to None, all.
    """

    def __init__(self,
                 alpha: float = 0.5,
                 gamma: float = 1.0,
                 normalizer: Optional[float] = None,
                 loss_weight: float = 1.0,
                 row_chunk: Optional[int] = None) -> None:
        super().__init__(loss_weight, row_chunk)
        if normalizer is not None and normalizer <= 0:
            raise ValueError(
                f'normalizer must be positive or None, got {normalizer}.')
        self.alpha = alpha
        self.gamma = gamma
        self.normalizer = 1.0 if normalizer is None else normalizer

    def row_sum(self, pairs: Pairs, logit_scale: Tensor,
                logit_bias: Optional[Tensor]) -> Tensor:
        """Sum the decisions of some images over all texts."""
        logits = similarity(pairs.image, pairs.texts, logit_scale)
        return focal_matrix_loss(logits, pairs.targets(), self.alpha,
                                 self.gamma)

    def denominator(self, num_pairs: int) -> float:
        """Return ``normalizer``, as in the release."""
        return self.normalizer
