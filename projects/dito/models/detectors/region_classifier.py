# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Classification of given boxes, to test what a backbone knows."""

from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor

from .dito import DITO
from .given_boxes import annotated_boxes, check_score, note_scores, score_boxes


@MODELS.register_module()
class DITORegionClassifier(DITO):
    """Detector that names the annotated boxes (paper, Table 6a).

    Boxes are those of ``gt_instances``, in pixels of the original image, as
    MMDetection's test pipelines have them (annotations are loaded after the
    image was resized). Every class of every box becomes a detection, without
    NMS, so that the metrics of detection give AP over given boxes, and
    :class:`DITORegionMetric` counts how often the best class is the right
    one. Made from a detector's config by ``model.type``; see
    dito region-accuracy.

    Args:
        score (str): 'vlm': ``z``, the frozen or finetuned backbone's score
            (Table 6a), which needs neither pyramid nor heads; 'det': ``p``
            of the box head; 'ensemble': both, as in detection.
        max_per_img (int): Most detections per image. Defaults to 300.
        **kwargs: See :class:`DITO`.
    """

    def __init__(
        self,
        *args: Any,
        score: str = 'vlm',
        max_per_img: int = 300,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_score(self, score)
        self.score = score
        self.max_per_img = max_per_img

    def predict(
        self,
        batch_inputs: Tensor,
        batch_data_samples: SampleList,
        rescale: bool = True,
    ) -> SampleList:
        """Classify the annotated boxes.

        The samples get ``pred_regions``, whose ``scores`` are (N, K), float32,
        for the N boxes in their order, and ``pred_instances``.
        """
        original, scaled = annotated_boxes(batch_data_samples, batch_inputs)
        feats = self.backbone(batch_inputs)
        scores = score_boxes(
            self,
            self.score,
            scaled,
            [sample.metainfo for sample in batch_data_samples],
            None
            if self.score == 'det'
            else self.vlm_map(batch_inputs, feats[-1]),
            None if self.score == 'vlm' else self.neck(feats),
        )
        note_scores(batch_data_samples, scores, self.score)
        for sample, score, boxes in zip(
            batch_data_samples,
            scores,
            original if rescale else scaled,
            strict=True,
        ):
            sample.pred_instances = self._as_detections(score, boxes)
        return batch_data_samples

    def _as_detections(self, scores: Tensor, boxes: Tensor) -> InstanceData:
        """Best pairs of box and class as detections, best first."""
        num = min(self.max_per_img, scores.numel())
        values, pairs = scores.flatten().topk(num)
        classes = max(scores.shape[1], 1)
        return InstanceData(
            bboxes=boxes[torch.div(pairs, classes, rounding_mode='floor')],
            scores=values,
            labels=pairs % classes,
        )
