# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""LVIS average precision of boxes and masks, with base and novel classes."""

import json
import os
from collections import Counter
from functools import cached_property
from typing import Dict, List, Optional, Sequence, Union

import numpy as np
import torch
from mmdet.registry import METRICS
from mmdet.structures.mask import encode_mask_results
from mmengine.evaluator import BaseMetric
from mmengine.fileio import exists
from mmengine.logging import MMLogger

from ..datasets.categories import list_names, match_names
from .ap_summary import summarize_categories, summarize_lvis
from .federated_ap import is_in_sorted
from .lvis_backends import BACKENDS, evaluate_lvis
from .lvis_detections import LVISDetections
from .lvis_ground_truth import LVISGroundTruth
from .result_table import render_categories, render_scores

_SHOWN = (
    'AP', 'AP50', 'AP75', 'APr', 'APc', 'APf', 'APs', 'APm', 'APl',
    'base_AP', 'base_AP50', 'novel_AP', 'novel_AP50',
)  # fmt: skip


def _to_numpy(values: Union[torch.Tensor, np.ndarray]) -> np.ndarray:
    """Move a tensor to numpy; half precision becomes float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        return values.numpy()
    return np.asarray(values)


@METRICS.register_module()
class DITOLVISMetric(BaseMetric):
    """LVIS AP: standard protocol, 300 detections an image over all classes.

    Reported in full precision for boxes and masks: AP, AP50, AP75, by size
    (APs, APm, APl), by frequency (APr, APc, APf) and for the base and novel
    classes (base_AP, base_AP50, novel_AP, novel_AP50). Novel classes are the
    ``novel_classes`` of the data set, or those of frequency 'r'. A group
    without objects has -1, as in the lvis package.

    Labels become category ids by class name. Only detections that the
    ground truth can judge are kept in memory, and only their masks encoded.

    Args:
        ann_file (str): Annotation file in LVIS form.
        metric (str | Sequence[str]): 'bbox' and/or 'segm'.
            Defaults to 'bbox'.
        backend (str): 'federated' (default, fast), 'faster'
            (faster-coco-eval) or 'lvis' (the reference); same figures.
        max_dets (int): Detections that count in an image. Defaults to 300.
        classwise (bool): Whether to log the AP of every category.
        outfile_prefix (str, optional): Write all detections to
            ``PREFIX.bbox.json`` / ``PREFIX.segm.json`` (LVIS result form)
            and the AP of every category to ``PREFIX.categories.json``.
        protocol (dict, optional): What else belongs to the protocol, printed
            with the results, such as ``dict(score_thr=0., alpha=0.3)``.
        collect_device (str): 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): Prefix of the names. Defaults to 'lvis'.
        backend_args (dict, optional): File backend of the annotation file.

    Attributes:
        per_category (dict[str, list[dict]]): After an evaluation, for 'bbox'
            and 'segm', the output of :func:`.summarize_categories`.

    Raises:
        FileNotFoundError: If the annotation file does not exist.
        ValueError: If an option is wrong, or if the classes of the data set
            are not exactly the categories of the annotation file.
    """

    default_prefix: Optional[str] = 'lvis'

    def __init__(
        self,
        ann_file: str,
        metric: Union[str, Sequence[str]] = 'bbox',
        backend: str = 'federated',
        max_dets: int = 300,
        classwise: bool = False,
        outfile_prefix: Optional[str] = None,
        protocol: Optional[dict] = None,
        collect_device: str = 'cpu',
        prefix: Optional[str] = None,
        backend_args: Optional[dict] = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.metrics = [metric] if isinstance(metric, str) else list(metric)
        wrong = [name for name in self.metrics if name not in ('bbox', 'segm')]
        if wrong or not self.metrics:
            raise ValueError(
                f"metric must be 'bbox' and/or 'segm', but got {metric!r}"
            )
        if backend not in BACKENDS:
            raise ValueError(
                f'backend must be one of {sorted(BACKENDS)}, not {backend!r}'
            )
        if not exists(ann_file, backend_args=backend_args):
            raise FileNotFoundError(
                f'annotation file {ann_file} of the metric does not exist'
            )
        self.ann_file = ann_file
        self.backend = backend
        self.max_dets = max_dets
        self.classwise = classwise
        self.outfile_prefix = outfile_prefix
        self.protocol = dict(protocol or {})
        self.backend_args = backend_args
        self.per_category: Dict[str, List[dict]] = {}

    @cached_property
    def ground_truth(self) -> LVISGroundTruth:
        """The annotations, read when the first result arrives."""
        return LVISGroundTruth.from_file(self.ann_file, self.backend_args)

    @cached_property
    def _label_to_category(self) -> np.ndarray:
        """Category index of each label, by class name: (K,), int64."""
        gt = self.ground_truth
        classes = (self.dataset_meta or {}).get('classes')
        if classes is None:
            raise ValueError('the data set has no classes in its metainfo')
        by_name = {name: dict(k=k) for k, name in enumerate(gt.names)}
        found = match_names(classes, by_name)
        unknown = [
            name
            for name, match in zip(classes, found, strict=True)
            if match is None
        ]
        index = [match['k'] for match in found if match is not None]
        missing = [n for k, n in enumerate(gt.names) if k not in set(index)]
        if unknown or missing or len(set(index)) != len(index):
            raise ValueError(
                f'the {len(classes)} classes of the data set are not the '
                f'{len(gt.names)} categories of {self.ann_file}: not in the '
                f'file: {list_names(unknown) or "none"}; not in the data '
                f'set: {list_names(missing) or "none"}'
            )
        return np.array(index, dtype=np.int64)

    @cached_property
    def novel(self) -> np.ndarray:
        """Whether each category is novel, in order of id: (K,), bool."""
        gt = self.ground_truth
        names = (self.dataset_meta or {}).get('novel_classes')
        if names is None:
            return np.array([f == 'r' for f in gt.frequency], dtype=bool)
        is_novel = [name in names for name in self.dataset_meta['classes']]
        novel = np.zeros(gt.num_categories, dtype=bool)
        novel[self._label_to_category] = is_novel
        return novel

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store what counts of the results of a batch.

        Args:
            data_batch (dict): Not used.
            data_samples (Sequence[dict]): ``img_id`` and ``pred_instances``
                with ``bboxes`` (N, 4), ``scores`` (N,), ``labels`` (N,) and,
                for masks, ``masks``: (N, H, W) or N RLE dicts.
        """
        for sample in data_samples:
            self.results.append(
                self._compact(sample['img_id'], sample['pred_instances'])
            )

    def _compact(self, image_id: int, pred: dict) -> dict:
        """Columns of one image: the best detections, judged ones only."""
        labels = _to_numpy(pred['labels']).astype(np.int64)
        scores = _to_numpy(pred['scores'])
        self._check_predictions(image_id, labels, scores)
        order = np.argsort(-scores, kind='stable')[: self.max_dets]
        category = self._label_to_category[labels]
        if self.outfile_prefix is None:
            gt = self.ground_truth
            image = gt.to_image_index([image_id])
            keys = gt.pair_keys(image, category[order])
            order = order[is_in_sorted(keys, gt.judged_keys)]
        result = dict(
            img_id=image_id,
            category=category[order],
            scores=scores[order],
            bboxes=_to_numpy(pred['bboxes'])[order],
            min_score=float(scores.min(initial=np.inf)),
        )
        if 'segm' in self.metrics:
            result['masks'] = self._encode_masks(image_id, pred, order)
        return result

    def _check_predictions(
        self, image_id: int, labels: np.ndarray, scores: np.ndarray
    ) -> None:
        """Refuse labels of another vocabulary and scores that are NaN."""
        self.ground_truth.to_image_index([image_id])
        number = len(self._label_to_category)
        if len(labels) and not 0 <= labels.min() <= labels.max() < number:
            raise ValueError(
                f'image {image_id} has labels {labels.min()} to '
                f'{labels.max()}, but the data set has {number} classes; is '
                'the vocabulary of the model that of the data set?'
            )
        if not np.isfinite(scores).all():
            raise ValueError(
                f'image {image_id} has scores that are not finite'
            )

    def _encode_masks(
        self, image_id: int, pred: dict, order: np.ndarray
    ) -> List[dict]:
        """RLE of the chosen masks."""
        if 'masks' not in pred:
            raise ValueError(
                f"metric 'segm' needs masks, but image {image_id} has none; "
                "use metric='bbox' or a detector with a mask head"
            )
        masks = pred['masks']
        if isinstance(masks, torch.Tensor):
            masks = masks[torch.from_numpy(order).to(masks.device)]
            return encode_mask_results(masks.detach().cpu().numpy())
        if isinstance(masks, np.ndarray):
            return encode_mask_results(masks[order])
        return [masks[i] for i in order.tolist()]

    def compute_metrics(self, results: List[dict]) -> Dict[str, float]:
        """Evaluate the collected results.

        Args:
            results (list[dict]): One dict an image, of all ranks.

        Returns:
            dict[str, float]: Figures named 'bbox_AP', 'segm_novel_AP' ...
        """
        logger: MMLogger = MMLogger.get_current_instance()
        gt = self.ground_truth
        detections = self._join(results)
        title = self._describe(results)
        figures: Dict[str, float] = {}
        scores: Dict[str, Dict[str, float]] = {}
        for iou_type in self.metrics:
            output = evaluate_lvis(
                gt, detections, iou_type, self.max_dets, self.backend
            )
            scores[iou_type] = summarize_lvis(
                output, gt.frequency, self.novel, self.max_dets
            )
            self.per_category[iou_type] = summarize_categories(
                output, gt, self.novel
            )
            for name, value in scores[iou_type].items():
                figures[f'{iou_type}_{name}'] = value
            if self.classwise:
                logger.info(
                    render_categories(
                        f'{iou_type}, {title}', self.per_category[iou_type]
                    )
                )
        logger.info(render_scores(title, scores, _SHOWN))
        if self.outfile_prefix is not None:
            self._write(detections)
        return figures

    def _join(self, results: List[dict]) -> LVISDetections:
        """Detections of all images as columns."""
        gt = self.ground_truth
        images = [result['img_id'] for result in results]
        if len(set(images)) != len(images):
            twice = [i for i, count in Counter(images).items() if count > 1]
            raise ValueError(
                f'{len(twice)} images have results twice: {twice[:5]}; does '
                'the sampler repeat images?'
            )
        counts = [len(result['scores']) for result in results]
        empty = dict(category=np.zeros(0, np.int64), scores=np.zeros(0))
        empty['bboxes'] = np.zeros((0, 4))
        column = {
            name: np.concatenate([none, *(r[name] for r in results)])
            for name, none in empty.items()
        }
        boxes = column['bboxes'].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        masks = None
        if 'segm' in self.metrics:
            masks = [mask for result in results for mask in result['masks']]
        return LVISDetections(
            image_ids=np.repeat(np.array(images, np.int64), counts),
            category_ids=gt.category_ids[column['category']],
            scores=column['scores'].astype(np.float64),
            boxes=boxes,
            masks=masks,
        )

    def _describe(self, results: List[dict]) -> str:
        """The protocol, for the head of the table."""
        gt = self.ground_truth
        lowest = min((r['min_score'] for r in results), default=np.inf)
        parts = dict(
            file=os.path.basename(self.ann_file),
            images=f'{len(results)} of {gt.num_images}',
            classes=f'{gt.num_categories} ({int(self.novel.sum())} novel)',
            max_dets=f'{self.max_dets} an image over all classes',
            lowest_score=f'{lowest:.3g}' if np.isfinite(lowest) else 'none',
            AP=f'standard, not fixed ({self.backend})',
            **self.protocol,
        )
        if len(results) < gt.num_images:
            parts['note'] = 'images without results count as empty'
        text = ', '.join(f'{key}: {value}' for key, value in parts.items())
        return f'LVIS protocol - {text}'

    def _write(self, detections: LVISDetections) -> None:
        """Write result files, each first under another name."""
        for iou_type in self.metrics:
            results = detections.to_results(iou_type)
            for result in results:
                mask = result.get('segmentation')
                if mask is not None and isinstance(mask['counts'], bytes):
                    counts = mask['counts'].decode()
                    result['segmentation'] = dict(mask, counts=counts)
            _write_json(f'{self.outfile_prefix}.{iou_type}.json', results)
        _write_json(
            f'{self.outfile_prefix}.categories.json', self.per_category
        )


def _write_json(path: str, content: Union[dict, list]) -> None:
    """Write a file so that it is never seen half written."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    unfinished = f'{path}.{os.getpid()}.tmp'
    with open(unfinished, 'w') as file:
        json.dump(content, file)
    os.replace(unfinished, path)
