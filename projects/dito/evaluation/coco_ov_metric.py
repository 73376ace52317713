# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""COCO average precision of base, novel and all classes."""

import os.path as osp
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger

from dito.utils.files import write_json_list

from ..datasets.annotations import (
    Annotations,
    Id,
    normalise,
    read_annotations,
    require_masks,
)
from ..datasets.categories import index_categories, list_names, match_names
from .ap_summary import mean_of_valid
from .coco_evaluation import BACKENDS, MAX_DETS, COCOGroundTruth, evaluate_coco
from .detection_spool import DetectionSpool, SpoolEntry
from .metric_inputs import (
    ClassesFirstMixin,
    check_predictions,
    encode_masks,
    refuse_repeated,
    result_parts,
    to_numpy,
)
from .report import ReportMixin, render_extremes
from .result_table import render_categories, render_scores


@METRICS.register_module()
class DITOCocoMetric(ClassesFirstMixin, ReportMixin, CocoMetric):
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
        protocol (dict, optional): What else belongs to the protocol.
        spool_dir (str, optional): Where detections wait for the evaluation,
            in files. Defaults to the system's folder for temporary files.
        **kwargs: Passed to :class:`mmdet.evaluation.CocoMetric`.

    Attributes:
        per_category (dict[str, list[dict]]): After an evaluation, for 'bbox'
            and 'segm', AP and AP50 of each class, in order of label.
        report (dict): See :class:`.ReportMixin`.
    """

    def __init__(
        self,
        ann_file: Optional[str] = None,
        metric: Union[str, Sequence[str]] = 'bbox',
        backend: str = 'faster',
        protocol: Optional[dict] = None,
        spool_dir: Optional[str] = None,
        **kwargs,
    ) -> None:
        metrics = [metric] if isinstance(metric, str) else list(metric)
        if not metrics or set(metrics) - {'bbox', 'segm'}:
            raise ValueError(
                f"metric must be 'bbox' and/or 'segm', but got {metric!r}"
            )
        if backend not in BACKENDS:
            raise ValueError(
                f'backend must be one of {BACKENDS}, not {backend!r}'
            )
        super().__init__(metric=metrics, **kwargs)
        self.ann_file = ann_file
        self.backend = backend
        self.protocol = dict(protocol or {})
        self.per_category: Dict[str, List[dict]] = {}
        self._spool = DetectionSpool(spool_dir)
        self._truth: Optional[COCOGroundTruth] = None
        if ann_file is not None:
            self._take(read_annotations(ann_file, self.backend_args))

    def _take(self, read: Annotations) -> None:
        """Take the ground truth."""
        self._truth = COCOGroundTruth(read, 'segm' in self.metrics)

    def meet_classes(self) -> None:
        """Compare the classes of the data set with the file."""
        if self._truth is not None:
            self._find_categories()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Write the detections of a batch to disk.

        Args:
            data_batch (dict): Not used.
            data_samples (Sequence[dict]): ``img_id``, ``ori_shape``,
                ``pred_instances`` with ``bboxes`` (N, 4), ``scores`` (N,),
                ``labels`` (N,) and, for masks, ``masks``; and ``instances``
                if there is no annotation file.
        """
        for sample in data_samples:
            image = sample['img_id']
            pred = sample['pred_instances']
            labels = to_numpy(pred['labels']).astype(np.int64)
            scores = to_numpy(pred['scores'])
            if self._truth is not None:
                self._require_image(image)
            check_predictions(
                image, labels, scores, len(self.dataset_meta['classes']))
            order = np.arange(len(scores))
            masks = None
            if 'segm' in self.metrics:
                masks = encode_masks(image, pred, order)
            entry = self._spool.add(
                image,
                labels,
                scores,
                to_numpy(pred['bboxes']),
                masks,
                lowest=float(scores.min(initial=np.inf)),
            )
            self.results.append((self._objects(sample), entry))

    def _require_image(self, image: Id) -> None:
        """Refuse results of another data set."""
        if self._truth.images.find(image) is None:
            raise ValueError(
                f'image {image} is not in {self.ann_file}; are these results '
                'of another data set?'
            )

    def _objects(self, sample: dict) -> Optional[Tuple[dict, List[dict]]]:
        """Image and objects of a sample, where no file has them."""
        if self.ann_file is not None:
            return None
        height, width = map(int, sample['ori_shape'])
        objects = []
        for item in sample['instances']:
            x1, y1, x2, y2 = map(float, item['bbox'])
            objects.append(
                dict(
                    image_id=sample['img_id'],
                    category_id=item['bbox_label'],
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    iscrowd=item.get('ignore_flag'),
                    segmentation=item.get('mask'),
                )
            )
        return dict(id=sample['img_id'], height=height, width=width), objects

    def evaluate(self, size: int) -> Dict[str, float]:
        """Evaluate the detections of all processes.

        Args:
            size (int): Number of images of the data set.

        Returns:
            dict[str, float]: Figures by name with prefix.
        """
        entries = self._spool.share([entry for _, entry in self.results])
        truths = [truth for truth, _ in self.results]
        self.results = list(zip(truths, entries, strict=True))
        try:
            return super().evaluate(size)
        finally:
            self._spool.clear()

    def compute_metrics(self, results: list) -> Dict[str, float]:
        """Evaluate the collected results.

        Args:
            results (list[tuple]): Ground truth, or None, and place of the
                detections, by image.

        Returns:
            dict[str, float]: The figures, between 0 and 1, or -1 for a group
            without objects.
        """
        entries = [entry for _, entry in results]
        refuse_repeated(entries)
        if self.ann_file is None:
            self._take(self._collected([truth for truth, _ in results]))
        self._find_categories()
        detections = self._spool.load(
            entries,
            np.array(self.cat_ids),
            'segm' in self.metrics,
            [self._truth.images.find(entry.image_id) for entry in entries],
        )
        if self.outfile_prefix is not None:
            for iou_type in self.metrics:
                path = f'{self.outfile_prefix}.{iou_type}.json'
                parts = result_parts(
                    detections, iou_type, self._truth.images,
                    self._truth.categories
                )
                write_json_list(path, parts)
        if self.format_only:
            return {}
        figures: Dict[str, float] = {}
        scores: Dict[str, Dict[str, float]] = {}
        for iou_type in self.metrics:
            precision, ids = evaluate_coco(
                self._truth, detections, self.cat_ids, iou_type,
                self.iou_thrs, self.backend)
            scores[iou_type] = self._summarize(precision, ids)
            self.per_category[iou_type] = self._category_rows(precision, ids)
            for name, value in scores[iou_type].items():
                figures[f'{iou_type}_{name}'] = value
        if 'bbox' in scores and 'novel_AP50' in scores['bbox']:
            for group in ('base', 'novel'):
                figures[f'{group}_ap50'] = scores['bbox'][f'{group}_AP50']
            figures['all_ap50'] = scores['bbox']['AP50']
        self._publish(scores, self._describe(entries), figures)
        return figures

    def _collected(self, truths: Sequence[Tuple]) -> Annotations:
        """Ground truth out of data samples."""
        objects = [item for _, items in truths for item in items]
        content = dict(
            images=[image for image, _ in truths],
            categories=[
                dict(id=label, name=name)
                for label, name in enumerate(self._names())
            ],
            annotations=[dict(a, id=k) for k, a in enumerate(objects)],
        )
        return normalise(content, 'the data samples')

    def _publish(
        self,
        scores: Dict[str, Dict[str, float]],
        protocol: Dict[str, Any],
        figures: Dict[str, float],
    ) -> None:
        """Show the tables."""
        logger: MMLogger = MMLogger.get_current_instance()
        title = f'COCO protocol, {protocol["split"]}'
        first = self.metrics[0]
        rows = self.per_category[first]
        extremes = render_extremes(f'{title}, {first}', rows)
        if extremes:
            logger.info(extremes)
        if self.classwise:
            logger.info(render_categories(f'{title}, {first}', rows))
        names = list(next(iter(scores.values())))
        table = render_scores(title, scores, names)
        self.publish(title, protocol, figures, table, self.per_category)

    def _names(self) -> Sequence[str]:
        """Classes as the file spells them, where the set repairs spelling."""
        meta = self.dataset_meta
        return meta.get('names_in_file') or meta['classes']

    def _find_categories(self) -> None:
        """Set ``cat_ids``, the category number of each label, by name."""
        classes = self._names()
        by_name = index_categories(self._truth.read.categories)
        found = match_names(classes, by_name)
        unknown = [
            name
            for name, match in zip(classes, found, strict=True)
            if match is None
        ]
        if unknown:
            raise ValueError(
                f'{len(unknown)} of {len(classes)} classes of the data set '
                f'are not categories of {self._truth.read.source}: '
                f'{list_names(unknown)}'
            )
        ids = [match['id'] for match in found]
        self.cat_ids = [self._truth.categories.find(i) for i in ids]
        if 'segm' in self.metrics:
            require_masks(self._truth.read, ids)

    def _novel(self, ids: Sequence[int]) -> np.ndarray:
        """Whether each category id is one of a novel class, bool, (K,)."""
        names = set(self.dataset_meta.get('novel_classes') or ())
        pairs = zip(self.cat_ids, self.dataset_meta['classes'], strict=True)
        is_novel = {cat: name in names for cat, name in pairs}
        return np.array([is_novel[cat] for cat in ids], dtype=bool)

    def _category_rows(
        self, precision: np.ndarray, ids: Sequence[int]
    ) -> List[dict]:
        """AP of every class, in order of label."""
        objects = Counter(
            self._truth.categories.find(ann['category_id'])
            for ann in self._truth.read.annotations
            if not ann['iscrowd']
        )
        place = {cat: k for k, cat in enumerate(ids)}
        novel = self._novel(self.cat_ids)
        at50 = np.round(100 * np.asarray(self.iou_thrs)) == 50
        return [
            dict(
                id=self._truth.categories.spell(cat),
                name=name,
                frequency='',
                novel=bool(new),
                objects=objects[cat],
                AP=mean_of_valid(precision[:, :, place[cat], 0]),
                AP50=mean_of_valid(precision[at50, :, place[cat], 0]),
            )
            for cat, name, new in zip(
                self.cat_ids, self.dataset_meta['classes'], novel, strict=True
            )
        ]

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
        novel = self._novel(ids)
        if not novel.any():
            return summary
        for group, members in (('base', ~novel), ('novel', novel)):
            summary[f'{group}_AP'] = mean_of_valid(everything[..., members])
            summary[f'{group}_AP50'] = mean_of_valid(at50[..., members])
        return summary

    def _describe(self, entries: List[SpoolEntry]) -> Dict[str, Any]:
        """The protocol."""
        meta = self.dataset_meta
        novel = len(meta.get('novel_classes') or ())
        lowest = min((e.lowest for e in entries), default=np.inf)
        images = len(self._truth.read.images)
        parts = self.with_run(dict(
            benchmark='COCO protocol',
            split=osp.basename(self.ann_file or 'objects of the samples'),
            images=f'{len(entries)} of {images}',
            classes=f'{len(meta["classes"])} ({novel} novel)',
            overlap=' and '.join(
                dict(bbox='boxes', segm='masks')[m] for m in self.metrics
            ),
            AP='standard',
            max_dets=f'{MAX_DETS[-1]} a class and image',
            most_dets_of_an_image=max((e.seen for e in entries), default=0),
            lowest_score=float(lowest) if np.isfinite(lowest) else 'none',
            backend=self.backend,
        ))
        if len(entries) < images:
            parts['note'] = 'images without results count as empty'
        return parts
