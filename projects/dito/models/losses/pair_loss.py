# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What the image-text losses have in common."""

from abc import abstractmethod
from typing import Optional

from torch import Tensor, nn

from .contrastive_ops import Pairs, gather_pairs, sum_over_rows


class PairLoss(nn.Module):
    """Base of losses over the matrix of all images with all texts.

    Exact over ranks: every rank computes its rows against the columns of
    all ranks, and after DistributedDataParallel's averaging value and
    gradients are those of one process with the whole batch. The returned
    value is this rank's share; its mean over ranks is the loss.

    Args:
        loss_weight (float): Factor on the loss. Defaults to 1.0.
        row_chunk (int, optional): Rows of the matrix held at a time; the
            rest is computed again in the backward pass. Bounds the memory
            of a batch of ten thousands on one device. Defaults to None,
            all.
    """

    # Whether rows of texts are compared with columns of images, too.
    uses_image_columns = False
    # Whether ``logit_bias`` has an effect.
    uses_bias = False

    def __init__(self,
                 loss_weight: float = 1.0,
                 row_chunk: Optional[int] = None) -> None:
        super().__init__()
        if row_chunk is not None and row_chunk < 1:
            raise ValueError(
                f'row_chunk must be at least 1 or None, got {row_chunk}.')
        self.loss_weight = loss_weight
        self.row_chunk = row_chunk

    def forward(self,
                image: Tensor,
                text: Tensor,
                logit_scale: Tensor,
                logit_bias: Optional[Tensor] = None) -> Tensor:
        """Compute the loss in float32.

        Args:
            image (Tensor): This rank's image embeddings, shape (n, D), not
                necessarily normalised.
            text (Tensor): Embeddings of their texts, shape (n, D).
            logit_scale (Tensor): Factor on the cosine, already
                exponentiated (1 / temperature), scalar.
            logit_bias (Tensor, optional): Learnt bias, scalar, for losses
                that have one. Defaults to None.

        Returns:
            Tensor: Scalar share of this rank.
        """
        pairs, = gather_pairs([image], text, self.uses_image_columns)
        return self.of_pairs(pairs, logit_scale, logit_bias)

    def of_pairs(self,
                 pairs: Pairs,
                 logit_scale: Tensor,
                 logit_bias: Optional[Tensor] = None) -> Tensor:
        """Compute the loss of embeddings that are gathered already.

        Args:
            pairs (Pairs): From :func:`gather_pairs`.
            logit_scale (Tensor): Factor on the cosine, scalar.
            logit_bias (Tensor, optional): Learnt bias, scalar.

        Returns:
            Tensor: Scalar share of this rank.
        """
        total = sum_over_rows(
            lambda part: self.row_sum(part, logit_scale, logit_bias), pairs,
            self.row_chunk)
        factor = pairs.world_size / self.denominator(len(pairs.texts))
        return self.loss_weight * factor * total

    @abstractmethod
    def row_sum(self, pairs: Pairs, logit_scale: Tensor,
                logit_bias: Optional[Tensor]) -> Tensor:
        """Sum the loss over the rows of ``pairs``, a scalar."""

    def denominator(self, num_pairs: int) -> float:
        """Divisor of the sum over all rows: the number of pairs."""
        return max(num_pairs, 1)
