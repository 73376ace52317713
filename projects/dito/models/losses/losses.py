# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Losses over image-text pairs, and that of the distillation."""

from abc import abstractmethod

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from .contrastive_ops import (
    Pairs,
    focal_matrix_loss,
    full_precision,
    gather_pairs,
    info_nce_rows,
    sigmoid_pair_loss,
    similarity,
    sum_over_rows,
)


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

    def __init__(
        self, loss_weight: float = 1.0, row_chunk: int | None = None
    ) -> None:
        super().__init__()
        if row_chunk is not None and row_chunk < 1:
            raise ValueError(
                f'row_chunk must be at least 1 or None, got {row_chunk}.'
            )
        self.loss_weight = loss_weight
        self.row_chunk = row_chunk

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
    ) -> Tensor:
        """Compute this rank's share of the loss in float32.

        Embeddings, (n, D), need not be normalised; ``logit_scale`` is the
        factor on the cosine, already exponentiated (1 / temperature).
        """
        (pairs,) = gather_pairs([image], text, self.uses_image_columns)
        return self.of_pairs(pairs, logit_scale, logit_bias)

    def of_pairs(
        self,
        pairs: Pairs,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
    ) -> Tensor:
        """Compute the share of pairs that are gathered already."""
        total = sum_over_rows(
            lambda part: self.row_sum(part, logit_scale, logit_bias),
            pairs,
            self.row_chunk,
        )
        factor = pairs.world_size / self.denominator(len(pairs.texts))
        return self.loss_weight * factor * total

    @abstractmethod
    def row_sum(
        self, pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor | None
    ) -> Tensor:
        """Sum the loss over the rows of ``pairs``, a scalar."""

    def denominator(self, num_pairs: int) -> float:
        """Divisor of the sum over all rows: the number of pairs."""
        return max(num_pairs, 1)


@MODELS.register_module()
class DITOContrastiveLoss(PairLoss):
    """Symmetric InfoNCE between images and texts, paper Eq. (1).

    Exact over ranks, see :class:`PairLoss`.

    Args:
        loss_weight (float): Factor on the loss. Defaults to 1.0.
        row_chunk (int, optional): Rows of the matrix held at a time.
            Defaults to None, all.
    """

    uses_image_columns = True

    def row_sum(
        self, pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor | None
    ) -> Tensor:
        """Sum both cross entropies over rows; a bias would cancel."""
        return info_nce_rows(
            pairs.image,
            pairs.text,
            pairs.images,
            pairs.texts,
            logit_scale,
            pairs.start,
        )


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

    def __init__(
        self,
        alpha: float = 0.5,
        gamma: float = 1.0,
        normalizer: float | None = None,
        loss_weight: float = 1.0,
        row_chunk: int | None = None,
    ) -> None:
        super().__init__(loss_weight, row_chunk)
        if normalizer is not None and normalizer <= 0:
            raise ValueError(
                f'normalizer must be positive or None, got {normalizer}.'
            )
        self.alpha = alpha
        self.gamma = gamma
        self.normalizer = 1.0 if normalizer is None else normalizer

    def row_sum(
        self, pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor | None
    ) -> Tensor:
        """Sum the decisions of some images over all texts."""
        logits = similarity(pairs.image, pairs.texts, logit_scale)
        return focal_matrix_loss(
            logits, pairs.targets(), self.alpha, self.gamma
        )

    def denominator(self, num_pairs: int) -> float:
        """Return ``normalizer``, as in the release."""
        return self.normalizer


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

    def __init__(
        self,
        logit_bias: float = -10.0,
        loss_weight: float = 1.0,
        row_chunk: int | None = None,
    ) -> None:
        super().__init__(loss_weight, row_chunk)
        self.logit_bias = logit_bias

    def row_sum(
        self, pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor | None
    ) -> Tensor:
        """Sum the decisions of some images over all texts."""
        logits = similarity(pairs.image, pairs.texts, logit_scale)
        if logit_bias is None:
            logits = logits + self.logit_bias
        else:
            logits = logits + full_precision(logit_bias)
        return sigmoid_pair_loss(logits, pairs.targets())


@MODELS.register_module()
class DITOCosineDistillLoss(nn.Module):
    """Cosine distance per region, averaged over regions (paper Sec. 3.4).

    Args:
        loss_weight (float): Factor on the loss, the paper's gamma. Defaults
            to 1.0.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of (N, D) in float32; the teacher gets no gradient.

        Of no region it is 0 with a gradient of 0; ValueError if shapes differ.
        """
        if student.shape != teacher.shape:
            raise ValueError(
                'Student and teacher must have one shape (N, D), got '
                f'{tuple(student.shape)} and {tuple(teacher.shape)}.'
            )
        student = full_precision(student)
        if not len(student):
            return student.sum() * 0.0
        cosine = F.cosine_similarity(
            student, full_precision(teacher).detach(), dim=-1
        )
        return self.loss_weight * (1.0 - cosine).mean()
