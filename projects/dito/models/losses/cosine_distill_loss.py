# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Cosine distance between a student and a frozen teacher."""

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from .contrastive_ops import full_precision


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
        """Compute the loss in float32; the teacher gets no gradient.

        Args:
            student (Tensor): Region embeddings, shape (N, D). N may be 0.
            teacher (Tensor): Their targets, shape (N, D).

        Returns:
            Tensor: Scalar; 0 with a gradient of 0 if N is 0.

        Raises:
            ValueError: If the shapes differ.
        """
        if student.shape != teacher.shape:
            raise ValueError(
                'Student and teacher must have one shape (N, D), got '
                f'{tuple(student.shape)} and {tuple(teacher.shape)}.')
        student = full_precision(student)
        if not len(student):
            return student.sum() * 0.0
        cosine = F.cosine_similarity(
            student, full_precision(teacher).detach(), dim=-1)
        return self.loss_weight * (1.0 - cosine).mean()
