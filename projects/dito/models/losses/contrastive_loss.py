# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Image-text contrastive loss."""

from typing import Optional

from mmdet.registry import MODELS
from torch import Tensor

from .contrastive_ops import Pairs, info_nce_rows
from .pair_loss import PairLoss


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

    def row_sum(self, pairs: Pairs, logit_scale: Tensor,
                logit_bias: Optional[Tensor]) -> Tensor:
        """Sum both cross entropies over rows; a bias would cancel."""
        return info_nce_rows(pairs.image, pairs.text, pairs.images,
                             pairs.texts, logit_scale, pairs.start)
