# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Classification of given boxes, to test what a backbone knows."""

from typing import Any, List, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi, scale_boxes
from mmengine.structures import InstanceData
from torch import Tensor

from .dito import DITO

SCORES = ('vlm', 'det', 'ensemble')


@MODELS.register_module()
class DITORegionClassifier(DITO):
    """Detector that names the annotated boxes (paper, Table 6a).

    Boxes are those of ``gt_instances``, in pixels of the original image, as
    MMDetection's test pipelines have them (annotations are loaded after the
    image was resized). Every class of every box becomes a detection, without
    NMS, so that the metrics of detection give AP over given boxes, and
    :class:`DITORegionMetric` counts how often the best class is the right
    one. Made from a detector's config by ``model.type``; see
    tools/analysis_tools/region_accuracy.py.

    Args:
        score (str): 'vlm': ``z``, the frozen or finetuned backbone's score
            (Table 6a), which needs neither pyramid nor heads; 'det': ``p``
            of the box head; 'ensemble': both, as in detection.
        max_per_img (int): Most detections an image. Defaults to 300.
        **kwargs: See :class:`DITO`.
    """

    def __init__(self,
                 *args: Any,
                 score: str = 'vlm',
                 max_per_img: int = 300,
                 **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if score not in SCORES:
            raise ValueError(f'score is {score!r}; use one of '
                             f'{", ".join(map(repr, SCORES))}.')
        if score != 'det' and self.roi_head.vlm_roi_extractor is None:
            raise ValueError(f'score {score!r} needs '
                             'roi_head.vlm_roi_extractor; set it, or '
                             "score='det'.")
        self.score = score
        self.max_per_img = max_per_img

    def predict(self,
                batch_inputs: Tensor,
                batch_data_samples: SampleList,
                rescale: bool = True) -> SampleList:
        """Classify the annotated boxes.

        Args:
            batch_inputs (Tensor): Images, shape (B, 3, H, W).
            batch_data_samples (SampleList): With ``gt_instances.bboxes``.
            rescale (bool): Whether ``pred_instances`` are wanted in pixels
                of the original image. Defaults to True.

        Returns:
            SampleList: The samples with ``pred_regions``, whose ``scores``
            are (N, K), float32, for the N boxes in their order, and with
            ``pred_instances``.
        """
        original, scaled = [], []
        for sample in batch_data_samples:
            boxes = sample.gt_instances.bboxes
            boxes = getattr(boxes, 'tensor', boxes).to(batch_inputs)
            original.append(boxes)
            scaled.append(scale_boxes(boxes, sample.scale_factor))
        scores = self._scores(batch_inputs, scaled, batch_data_samples)
        for sample, score, boxes in zip(
                batch_data_samples, scores, original if rescale else scaled,
                strict=True):
            sample.pred_regions = InstanceData(scores=score)
            sample.pred_instances = self._as_detections(score, boxes)
        return batch_data_samples

    def _scores(self, batch_inputs: Tensor, boxes: List[Tensor],
                samples: SampleList) -> Tuple[Tensor, ...]:
        """Scores of the classes, background left out, (N, K) an image."""
        head, rois = self.roi_head, bbox2roi(boxes)
        feats = self.backbone(batch_inputs)
        det = vlm = None
        if self.score != 'det':
            metas = [sample.metainfo for sample in samples]
            vlm = head.vlm_logits(
                head.vlm_embed(
                    head.project(self.vlm_map(batch_inputs, feats[-1])), rois,
                    metas))
        if self.score != 'vlm':
            pyramid = self.neck(feats)
            embeds, _ = head.bbox_head.regions(
                head.bbox_roi_extractor(pyramid, rois))
            det = head.bbox_head.classify(embeds)
        if self.score == 'vlm':
            scores = vlm.softmax(dim=1)
        else:
            # A given box has no objectness.
            scores = head.score(det, vlm, rois.new_ones(len(rois)))
        scores = scores[:, :head.bbox_head.num_classes]
        return scores.split([len(b) for b in boxes])

    def _as_detections(self, scores: Tensor, boxes: Tensor) -> InstanceData:
        """Best pairs of box and class as detections, best first."""
        num = min(self.max_per_img, scores.numel())
        values, pairs = scores.flatten().topk(num)
        classes = max(scores.shape[1], 1)
        return InstanceData(
            bboxes=boxes[torch.div(pairs, classes, rounding_mode='floor')],
            scores=values,
            labels=pairs % classes)
