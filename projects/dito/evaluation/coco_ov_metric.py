# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""COCO average precision of base, novel and all classes."""

import os.path as osp
import tempfile
from typing import Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
from faster_coco_eval import COCO as FasterCOCO
from faster_coco_eval import COCOeval_faster
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger

from ..datasets.categories import index_categories, list_names, match_names
from .ap_summary import mean_of_valid
from .result_table import render_scores

# Detections of one category in one image that count, as COCO's protocol has
# it. AP is taken at the last.
_MAX_DETS = (1, 10, 100)


@METRICS.register_module()
class DITOCocoMetric(CocoMetric):
    """COCO AP with base and novel classes side by side.

    Like MMDetection's ``OVCocoMetric``, but labels become category ids by
    class name in any order, values keep their precision, all figures use
    COCO's 100 detections a category and image, and masks are evaluated by
    group, too. Categories of the file that are not classes of the data set
    are left out: 65 of 80 in open-vocabulary COCO.

    Names: ``bbox_AP``, ``bbox_AP50``, ``bbox_AP75`` over all classes,
    ``bbox_base_AP``, ``bbox_base_AP50``, ``bbox_novel_AP`` and
    ``bbox_novel_AP50`` where there are novel classes, the same with
    ``segm_``; and for boxes ``base_ap50``, ``novel_ap50`` and ``all_ap50``,
    the names of ``OVCocoMetric``.

    Args:
        ann_file (str, optional): COCO annotation file. Without it the
            objects in the data samples are used.
        metric (str | Sequence[str]): 'bbox' and/or 'segm'.
            Defaults to 'bbox'.
        backend (str): 'faster' (faster-coco-eval, default) or 'pycocotools'.
        **kwargs: Passed to :class:`mmdet.evaluation.CocoMetric`.
    """

    def __init__(
        self,
        ann_file: Optional[str] = None,
        metric: Union[str, Sequence[str]] = 'bbox',
        backend: str = 'faster',
        **kwargs,
    ) -> None:
        metrics = [metric] if isinstance(metric, str) else list(metric)
        if not metrics or set(metrics) - {'bbox', 'segm'}:
            raise ValueError(
                f"metric must be 'bbox' and/or 'segm', but got {metric!r}"
            )
        if backend not in ('faster', 'pycocotools'):
            raise ValueError(
                f"backend must be 'faster' or 'pycocotools', not {backend!r}"
            )
        if ann_file is not None and not osp.exists(ann_file):
            raise FileNotFoundError(
                f'annotation file {ann_file} of the metric does not exist'
            )
        super().__init__(ann_file=ann_file, metric=metrics, **kwargs)
        self.ann_file = ann_file
        self.backend = backend

    def compute_metrics(self, results: list) -> Dict[str, float]:
        """Evaluate the collected results.

        Args:
            results (list[tuple]): Ground truth and detections by image.

        Returns:
            dict[str, float]: The figures, between 0 and 1, or -1 for a group
            without objects.
        """
        truths = [truth for truth, _ in results]
        preds = [pred for _, pred in results]
        if self._coco_api is None:
            with tempfile.TemporaryDirectory() as folder:
                path = self.gt_to_coco_json(truths, osp.join(folder, 'gt'))
                self._coco_api = COCO(path)
        self.cat_ids = self._category_ids()
        if self.outfile_prefix is not None:
            self.results2json(preds, self.outfile_prefix)
        if self.format_only:
            return {}
        figures: Dict[str, float] = {}
        scores: Dict[str, Dict[str, float]] = {}
        for iou_type in self.metrics:
            precision, ids = self._precision(preds, iou_type)
            scores[iou_type] = self._summarize(precision, ids)
            for name, value in scores[iou_type].items():
                figures[f'{iou_type}_{name}'] = value
        if 'bbox' in scores and 'novel_AP50' in scores['bbox']:
            for group in ('base', 'novel'):
                figures[f'{group}_ap50'] = scores['bbox'][f'{group}_AP50']
            figures['all_ap50'] = scores['bbox']['AP50']
        logger: MMLogger = MMLogger.get_current_instance()
        names = list(next(iter(scores.values())))
        logger.info(render_scores(self._describe(results), scores, names))
        return figures

    def _category_ids(self) -> List[int]:
        """Category id of each label, by class name."""
        # As the file spells them, where the data set repairs spelling.
        classes = (
            self.dataset_meta.get('names_in_file')
            or self.dataset_meta['classes']
        )
        by_name = index_categories(self._coco_api.dataset['categories'])
        found = match_names(classes, by_name)
        unknown = [
            name
            for name, match in zip(classes, found, strict=True)
            if match is None
        ]
        if unknown:
            raise ValueError(
                f'{len(unknown)} of {len(classes)} classes of the data set '
                f'are not categories of {self.ann_file}: '
                f'{list_names(unknown)}'
            )
        return [match['id'] for match in found]

    def _precision(
        self, preds: Sequence[dict], iou_type: str
    ) -> Tuple[np.ndarray, List[int]]:
        """Run the evaluation.

        Returns:
            tuple: Precision of shape (10 thresholds, 101 recall levels,
            K, 4 areas), and the category ids in order of its third axis.
        """
        entries = self._entries(preds, iou_type)
        ids = sorted(self.cat_ids)
        if not entries:
            return self._precision_of_nothing(ids), ids
        if self.backend == 'faster':
            dataset = dict(self._coco_api.dataset)
            # The evaluation writes into annotations.
            dataset['annotations'] = [
                dict(ann) for ann in dataset['annotations']
            ]
            truth = FasterCOCO(dataset)
            run = COCOeval_faster(truth, truth.loadRes(entries), iou_type)
        else:
            truth = self._coco_api
            run = COCOeval(truth, truth.loadRes(entries), iou_type)
        run.params.catIds = ids
        run.params.imgIds = truth.getImgIds()
        run.params.maxDets = list(_MAX_DETS)
        run.params.iouThrs = self.iou_thrs
        run.evaluate()
        run.accumulate()
        return np.asarray(run.eval['precision'])[..., -1], ids

    def _precision_of_nothing(self, ids: Sequence[int]) -> np.ndarray:
        """Zero for categories with objects and -1 for the others."""
        seen = {
            ann['category_id']
            for ann in self._coco_api.dataset['annotations']
            if not ann.get('iscrowd', 0)
        }
        has = np.array([0.0 if cat in seen else -1.0 for cat in ids])
        shape = (len(self.iou_thrs), 101, len(ids), 4)
        return np.broadcast_to(has[:, None], shape)

    def _entries(self, preds: Sequence[dict], iou_type: str) -> List[dict]:
        """Detections in COCO's result form."""
        entries = []
        for pred in preds:
            labels = pred['labels'].tolist()
            if labels and not 0 <= min(labels) <= max(labels) < len(
                self.cat_ids
            ):
                raise ValueError(
                    f'image {pred["img_id"]} has labels up to {max(labels)}, '
                    f'but the data set has {len(self.cat_ids)} classes; is '
                    'the vocabulary of the model that of the data set?'
                )
            if iou_type == 'segm' and 'masks' not in pred:
                raise ValueError(
                    f"metric 'segm' needs masks, but image {pred['img_id']} "
                    "has none; use metric='bbox'"
                )
            scores = pred['scores'].tolist()
            for i, label in enumerate(labels):
                entry = dict(
                    image_id=pred['img_id'],
                    category_id=self.cat_ids[label],
                    score=scores[i],
                )
                # Without a box the area of an object is that of its mask.
                if iou_type == 'bbox':
                    entry['bbox'] = self.xyxy2xywh(pred['bboxes'][i])
                else:
                    entry['segmentation'] = pred['masks'][i]
                entries.append(entry)
        return entries

    def _summarize(
        self, precision: np.ndarray, ids: Sequence[int]
    ) -> Dict[str, float]:
        """Figures over all classes and, if there are novel ones, by group."""
        everything = precision[..., 0]
        thresholds = np.round(100 * np.asarray(self.iou_thrs)).astype(int)
        at50 = everything[thresholds == 50]
        summary = dict(
            AP=mean_of_valid(everything),
            AP50=mean_of_valid(at50),
            AP75=mean_of_valid(everything[thresholds == 75]),
        )
        classes = self.dataset_meta['classes']
        novel_names = set(self.dataset_meta.get('novel_classes') or ())
        if not novel_names:
            return summary
        is_novel = {
            cat: name in novel_names
            for cat, name in zip(self.cat_ids, classes, strict=True)
        }
        novel = np.array([is_novel[cat] for cat in ids])
        for group, members in (('base', ~novel), ('novel', novel)):
            summary[f'{group}_AP'] = mean_of_valid(everything[..., members])
            summary[f'{group}_AP50'] = mean_of_valid(at50[..., members])
        return summary

    def _describe(self, results: list) -> str:
        """The protocol, for the head of the table."""
        meta = self.dataset_meta
        novel = len(meta.get('novel_classes') or ())
        lowest = min(
            (p['scores'].min() for _, p in results if len(p['scores'])),
            default=None,
        )
        return (
            f'COCO protocol - file: {osp.basename(self.ann_file or "none")}, '
            f'images: {len(results)} of {len(self._coco_api.imgs)}, '
            f'classes: {len(meta["classes"])} ({novel} novel), '
            f'max_dets: {_MAX_DETS[-1]} a category and image, lowest_score: '
            f'{"none" if lowest is None else format(lowest, ".3g")}'
        )
