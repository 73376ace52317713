# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Box coder of the release, and class-wise NMS with bounded memory."""

from collections.abc import Sequence

from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.registry import TASK_UTILS
from torch import Tensor
from torchvision.ops import nms

from .geometric_ensemble import ChunkedScores


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
        target_means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        target_stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    ) -> None:
        super().__init__(target_means=target_means, target_stds=target_stds)

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Deltas (N, 4) from boxes (N, 4) to ground truth (N, 4)."""
        return super().encode(_exclusive(bboxes), _exclusive(gt_bboxes))

    def decode(
        self,
        bboxes: Tensor,
        pred_bboxes: Tensor,
        max_shape: Sequence[int] | None = None,
    ) -> Tensor:
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


def _nms_by_class(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_thr: float
) -> Tensor:
    """NMS within each class: indices kept, best first.

    Boxes of different classes are moved apart. With 1,203 classes the shift
    is above a million pixels, hence float64: in float32 only an eighth of a
    pixel would be left.
    """
    shift = (boxes.max() - boxes.min().clamp(max=0) + 1).double()
    apart = boxes.double() + (labels * shift)[:, None]
    return nms(apart, scores.double(), iou_thr)


def topk_class_nms(
    boxes: Tensor,
    scores: Tensor | ChunkedScores,
    score_thr: float,
    iou_thr: float,
    max_num: int,
    topk: int = 4000,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class-wise NMS of class-agnostic boxes, equal to the exhaustive one.

    NMS is greedy: a detection depends on better ones only. So it is enough
    to look at the best ``topk`` (box, class) pairs and to take twice as many
    as long as fewer than ``max_num`` of them survive. The boxes are never
    expanded to all N x K pairs.

    Args:
        boxes (Tensor): One box (x1, y1, x2, y2) a proposal, shape (N, 4).
        scores (Tensor | ChunkedScores): Class scores without background,
            shape (N, K); or what computes the best of them.
        score_thr (float): Only scores above it count.
        iou_thr (float): A box is dropped when its IoU with a better one of
            the same class is above this.
        max_num (int): Number of detections to return at most.
        topk (int): Number of pairs tried first. Defaults to 4000.

    Returns:
        Tuple[Tensor, Tensor, Tensor, Tensor]: Boxes (M, 4), scores (M, ),
        labels int64 (M, ), indices of the proposals int64 (M, ); best first.
    """
    total, num_classes = scores.shape[0] * scores.shape[1], scores.shape[1]
    while True:
        if isinstance(scores, ChunkedScores):
            best, pairs = scores.best(topk)
        else:
            best, pairs = scores.flatten().topk(min(topk, total))
        enough = best > score_thr
        best, pairs = best[enough], pairs[enough]
        exhausted = len(pairs) < topk or len(pairs) == total
        inds = pairs // max(num_classes, 1)
        labels = pairs % max(num_classes, 1)
        keep = (
            pairs[:0]
            if len(pairs) == 0
            else _nms_by_class(boxes[inds], best, labels, iou_thr)
        )
        if exhausted or len(keep) >= max_num:
            break
        topk *= 2
    keep = keep[:max_num]
    return boxes[inds[keep]], best[keep], labels[keep], inds[keep]
