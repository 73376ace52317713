# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Scores of annotated boxes, to test classification without localization."""

from collections.abc import Sequence
from typing import Any

from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi, scale_boxes
from mmengine.structures import InstanceData
from torch import Tensor

SCORES = ('vlm', 'det', 'ensemble')


def check_score(model: Any, score: str) -> None:
    """Refuse, by a ValueError, a score that a detector does not have."""
    if score not in SCORES:
        raise ValueError(
            f'score is {score!r}; use one of {", ".join(map(repr, SCORES))}.'
        )
    if score != 'det' and model.roi_head.vlm_roi_extractor is None:
        raise ValueError(
            f'score {score!r} needs roi_head.vlm_roi_extractor; '
            "set it, or score='det'."
        )


def annotated_boxes(
    samples: SampleList, like: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes of the ground truth in the original's and the input's pixels."""
    original, scaled = [], []
    for sample in samples:
        boxes = sample.gt_instances.bboxes
        boxes = getattr(boxes, 'tensor', boxes).to(like)
        original.append(boxes)
        scaled.append(scale_boxes(boxes, sample.scale_factor))
    return original, scaled


def score_boxes(
    model: Any,
    score: str,
    boxes: Sequence[Tensor],
    metas: Sequence[dict],
    vlm_feat: Tensor | None = None,
    pyramid: Sequence[Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Score all classes of a detector's vocabulary for given boxes.

    'vlm' is ``z``, of ``vlm_feat``, (B, D, h, w); 'det' is ``p``, of the
    pyramid; 'ensemble' both, as in detection, where a given box has no
    objectness. Boxes are in pixels of the input, (N, 4) an image; scores
    float32, (N, K), without the background.
    """
    head, rois = model.roi_head, bbox2roi(list(boxes))
    det = vlm = None
    if score != 'det':
        vlm = head.vlm_logits(
            head.vlm_embed(head.project(vlm_feat), rois, list(metas))
        )
    if score != 'vlm':
        embeds, _ = head.bbox_head.regions(
            head.bbox_roi_extractor(
                pyramid[: head.bbox_roi_extractor.num_inputs], rois
            )
        )
        det = head.bbox_head.classify(embeds)
    if score == 'vlm':
        scores = vlm.softmax(dim=1)
    else:
        scores = head.score(det, vlm, rois.new_ones(len(rois)))
    scores = scores[:, : head.bbox_head.num_classes]
    return scores.split([len(b) for b in boxes])


def note_scores(
    samples: SampleList, scores: Sequence[Tensor], score: str
) -> None:
    """Keep scores, (N, K) each, as ``pred_regions``, with their name."""
    for sample, values in zip(samples, scores, strict=True):
        sample.pred_regions = InstanceData(
            scores=values, metainfo=dict(score=score)
        )
