# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Focal contrastive loss."""

from typing import Optional

from mmdet.registry import MODELS
from torch import Tensor, nn

from .contrastive_ops import (
    check_pairs,
    focal_matrix_loss,
    gather_rows,
    normalize,
    similarity,
)


@MODELS.register_module()
class DITOFocalContrastiveLoss(nn.Module):
    """Sigmoid focal loss over the similarity matrix (RO-ViT).

    An alternative to the InfoNCE loss that RO-ViT uses and the paper
    replaces. As in the release the loss is the sum over the whole matrix,
    times two; divide it by ``normalizer`` to keep it apart from the batch.
    Exact over ranks like :class:`DITOContrastiveLoss`.

    Args:
        alpha (float): Weight of the pairs, the rest get ``1 - alpha``.
            Defaults to 0.5.
        gamma (float): Focusing exponent. Defaults to 1.0.
        normalizer (float, optional): Divisor of the sum. Defaults to None,
            which means 1.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    def __init__(self,
                 alpha: float = 0.5,
                 gamma: float = 1.0,
                 normalizer: Optional[float] = None,
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        if normalizer is not None and normalizer <= 0:
            raise ValueError(
                f'normalizer must be positive or None, got {normalizer}.')
        self.alpha = alpha
        self.gamma = gamma
        self.normalizer = 1.0 if normalizer is None else normalizer
        self.loss_weight = loss_weight

    def forward(self, image: Tensor, text: Tensor,
                logit_scale: Tensor) -> Tensor:
        """Compute the loss in float32.

        Args:
            image (Tensor): This rank's image embeddings, shape (n, D).
            text (Tensor): Embeddings of their texts, shape (n, D).
            logit_scale (Tensor): Factor on the cosine, scalar.

        Returns:
            Tensor: Scalar share of this rank.
        """
        check_pairs(image, text)
        image = normalize(image)
        texts = gather_rows(normalize(text))
        logits = similarity(image, texts.rows, logit_scale)
        total = self.from_logits(logits, texts.positives(image.shape[0]))
        return total * texts.world_size

    def from_logits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Weighted, normalised sum over given logits.

        Args:
            logits (Tensor): Shape (..., n, N).
            targets (Tensor): Column of the positive, shape (..., n).

        Returns:
            Tensor: Scalar.
        """
        total = focal_matrix_loss(logits, targets, self.alpha, self.gamma)
        return self.loss_weight * total / self.normalizer
