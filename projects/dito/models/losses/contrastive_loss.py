# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Image-text contrastive loss."""

from mmdet.registry import MODELS
from torch import Tensor, nn

from .contrastive_ops import info_nce


@MODELS.register_module()
class DITOContrastiveLoss(nn.Module):
    """Symmetric InfoNCE between images and texts, paper Eq. (1).

    Exact over ranks: every rank computes its rows against the columns of
    all ranks, and after DistributedDataParallel's averaging value and
    gradients are those of one process with the whole batch. The returned
    value is this rank's share; its mean over ranks is the loss.

    Args:
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, image: Tensor, text: Tensor,
                logit_scale: Tensor) -> Tensor:
        """Compute the loss in float32.

        Args:
            image (Tensor): This rank's image embeddings, shape (n, D), not
                necessarily normalised.
            text (Tensor): Embeddings of their texts, shape (n, D).
            logit_scale (Tensor): Factor on the cosine, already
                exponentiated (1 / temperature), scalar.

        Returns:
            Tensor: Scalar loss.
        """
        return self.loss_weight * info_nce(image, text, logit_scale)
