# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Losses in one call, as tests compare them with others'."""

from torch import Tensor

from dito.models.losses import DITOFocalContrastiveLoss
from dito.models.losses.contrastive_ops import (
    focal_matrix_loss,
    gather_pairs,
    info_nce_rows,
)


def info_nce(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE over the pairs of all ranks, paper Eq. (1).

    Each rank computes its own rows against all columns.

    Args:
        image (Tensor): This rank's image embeddings, shape (n, D); they need
            not be normalised.
        text (Tensor): The texts of the same pairs, shape (n, D).
        logit_scale (Tensor): Factor on the cosine, scalar.

    Returns:
        Tensor: Scalar share of this rank, see ``contrastive_ops``.

    Raises:
        ValueError: If the two shapes differ.
    """
    (pairs,) = gather_pairs([image], text)
    total = info_nce_rows(
        pairs.image,
        pairs.text,
        pairs.images,
        pairs.texts,
        logit_scale,
        pairs.start,
    )
    return total * (pairs.world_size / max(len(pairs.texts), 1))


def focal_of_logits(
    loss: DITOFocalContrastiveLoss, logits: Tensor, targets: Tensor
) -> Tensor:
    """Weighted, normalised sum over given logits.

    Args:
        loss (DITOFocalContrastiveLoss): With its exponents and normalizer.
        logits (Tensor): Shape (..., n, N).
        targets (Tensor): Column of the positive, shape (..., n).

    Returns:
        Tensor: Scalar.
    """
    total = focal_matrix_loss(logits, targets, loss.alpha, loss.gamma)
    return loss.loss_weight * total / loss.normalizer
