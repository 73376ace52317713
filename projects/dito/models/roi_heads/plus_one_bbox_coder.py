# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Box coder of the release: a side is x2 - x1 + 1."""

from typing import Optional, Sequence

from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.registry import TASK_UTILS
from torch import Tensor


@TASK_UTILS.register_module()
class DITOPlusOneBBoxCoder(DeltaXYWHBBoxCoder):
    """Delta coder with inclusive far corners, for the authors' weights.

    A box covers the pixels from x1 to x2 inclusive, so its side is
    ``x2 - x1 + 1`` and decoded boxes are clipped to ``side - 1``.
    MMDetection's legacy coder has these sides too but leaves decoded corners
    half a pixel off.

    Args:
        target_means (Sequence[float]): Means of the deltas.
        target_stds (Sequence[float]): Deviations of the deltas; the default
            is the release's weights 10, 10, 5, 5.
    """

    def __init__(
        self,
        target_means: Sequence[float] = (0., 0., 0., 0.),
        target_stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2)
    ) -> None:
        super().__init__(target_means=target_means, target_stds=target_stds)

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Deltas (N, 4) from boxes (N, 4) to ground truth (N, 4)."""
        return super().encode(_exclusive(bboxes), _exclusive(gt_bboxes))

    def decode(self,
               bboxes: Tensor,
               pred_bboxes: Tensor,
               max_shape: Optional[Sequence[int]] = None) -> Tensor:
        """Boxes of deltas.

        Args:
            bboxes (Tensor): Proposals, shape (N, 4).
            pred_bboxes (Tensor): Deltas, shape (N, 4).
            max_shape (Sequence[int], optional): Height and width to clip
                to.

        Returns:
            Tensor: Boxes (x1, y1, x2, y2), shape (N, 4).
        """
        boxes = super().decode(_exclusive(bboxes), pred_bboxes)
        boxes = boxes - boxes.new_tensor([0, 0, 1, 1])
        if max_shape is None:
            return boxes
        limit = boxes.new_tensor([max_shape[1], max_shape[0]] * 2) - 1
        return boxes.clamp(min=0).minimum(limit)


def _exclusive(boxes: Tensor) -> Tensor:
    """Move the far corner past the last covered pixel."""
    return boxes + boxes.new_tensor([0, 0, 1, 1])
