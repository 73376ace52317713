# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""COCO average precision of base, novel and all classes."""

from collections.abc import Sequence

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS

from ..datasets.annotations import (
    Annotations,
    normalise,
    read_annotations,
    require_masks,
)
from ..datasets.categories import (
    index_categories,
    list_names,
    match_names,
    unmatched,
)
from .average_precision import (
    AREA_RANGES,
    evaluate,
    summarize,
    summarize_categories,
)
from .detection_metric import (
    DetectionMetricMixin,
    ImageDetections,
    check_options,
    pack_predictions,
    read_labels,
)
from .detections import LVISDetections
from .ground_truth import GroundTruth

_BACKENDS = ('faster', 'pycocotools')
# Detections of one category in one image that count, as COCO has it.
_MAX_DETS = 100


@METRICS.register_module()
class DITOCocoMetric(DetectionMetricMixin, CocoMetric):
    """COCO AP with base and novel classes side by side.

    Like MMDetection's ``OVCocoMetric``, but labels become category ids by
    class name in any order, values keep their precision, all figures use
    COCO's 100 detections per category and image, and masks are evaluated by
    group, too. Categories of the file that are not classes of the data set
    are left out: 65 of 80 in open-vocabulary COCO.

    Names: ``bbox_AP``, ``bbox_AP50``, ``bbox_AP75`` over all classes,
    ``bbox_base_AP``, ``bbox_base_AP50``, ``bbox_novel_AP`` and
    ``bbox_novel_AP50`` where there are novel classes, the same with
    ``segm_``; and for boxes ``base_ap50``, ``novel_ap50`` and ``all_ap50``,
    the names of ``OVCocoMetric``. After an evaluation ``per_category``, in
    order of label, and ``report`` are set (:class:`.DetectionMetricMixin`).

    Args:
        ann_file (str, optional): COCO annotation file. Without it the
            objects in the data samples are used.
        metric (str | Sequence[str]): 'bbox' and/or 'segm'.
            Defaults to 'bbox'.
        backend (str, optional): Has no effect; accepted for one release.
        spool_dir (str, optional): Refused; it no longer has a meaning.
        **kwargs: ``protocol``, and those of
            :class:`mmdet.evaluation.CocoMetric`.
    """

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = 'bbox',
        backend: str | None = None,
        spool_dir: str | None = None,
        **kwargs,
    ) -> None:
        metrics = check_options(metric, backend, _BACKENDS, spool_dir)
        super().__init__(metric=metrics, **kwargs)
        self.ann_file = ann_file
        self.per_category = {}
        self._truth: GroundTruth | None = None
        if ann_file is not None:
            self._take(read_annotations(ann_file, self.backend_args))

    def _take(self, read: Annotations) -> None:
        """Take the ground truth."""
        self._truth = GroundTruth(read, 'segm' in self.metrics)

    def meet_classes(self) -> None:
        """Compare the classes of the data set with the file."""
        if self._truth is not None:
            self._find_categories()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Pack the detections of a batch.

        Samples have ``img_id``, ``ori_shape``, ``pred_instances`` with
        ``bboxes`` (N, 4), ``scores`` (N,), ``labels`` (N,) and, for masks,
        ``masks``; and ``instances`` if there is no annotation file.
        """
        for sample in data_samples:
            image, pred = sample['img_id'], sample['pred_instances']
            if self._truth and self._truth.images.find(image) is None:
                raise ValueError(
                    f'image {image} is not in {self.ann_file}; are these '
                    'results of another data set?'
                )
            labels = read_labels(
                image, pred, len(self.dataset_meta['classes'])
            )
            masked = None
            if 'segm' in self.metrics:
                masked = np.ones(len(labels), dtype=bool)
            self.results.append(
                pack_predictions(
                    image,
                    pred,
                    labels,
                    np.arange(len(labels)),
                    masked,
                    self._objects(sample),
                )
            )

    def _objects(self, sample: dict) -> tuple[dict, list[dict]] | None:
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

    def compute_metrics(
        self, results: list[ImageDetections]
    ) -> dict[str, float]:
        """Evaluate the images of all ranks."""
        if self.ann_file is None:
            self._take(self._collected([entry.truth for entry in results]))
        self._find_categories()
        gt = self._truth
        detections = self._load(results, gt, np.array(self.cat_ids))
        if self.outfile_prefix is not None:
            self._write_results(detections, gt)
        if self.format_only:
            return {}
        scores = {
            kind: self._evaluate_kind(kind, detections)
            for kind in self.metrics
        }
        figures = {
            f'{kind}_{name}': value
            for kind, values in scores.items()
            for name, value in values.items()
        }
        if 'bbox_novel_AP50' in figures:
            for group in ('base', 'novel'):
                figures[f'{group}_ap50'] = figures[f'bbox_{group}_AP50']
            figures['all_ap50'] = figures['bbox_AP50']
        protocol = self._describe(
            results,
            gt,
            len(self.dataset_meta.get('novel_classes') or ()),
            benchmark='COCO protocol',
            AP='standard',
            max_dets=f'{_MAX_DETS} a class and image',
        )
        title = f'COCO protocol, {protocol["split"]}'
        names = list(scores[self.metrics[0]])
        self._show(title, protocol, scores, names, figures)
        return figures

    def _evaluate_kind(
        self, kind: str, detections: LVISDetections
    ) -> dict[str, float]:
        """Evaluate boxes or masks; fills ``per_category``."""
        gt, meta = self._truth, self.dataset_meta
        index = gt.to_category_index(self.cat_ids)
        output = evaluate(
            gt,
            detections,
            kind,
            index,
            self.iou_thrs,
            AREA_RANGES[:1],
            _MAX_DETS,
        )
        names = set(meta.get('novel_classes') or ())
        novel = np.array([name in names for name in meta['classes']], bool)
        precision = output.precision[..., 0]
        self.per_category[kind] = summarize_categories(
            precision, gt, novel, index, meta['classes'], self.iou_thrs
        )
        # In order of id, so that the order of the classes does not matter.
        order = np.argsort(index)
        return summarize(
            precision[..., order],
            novel[order] if novel.any() else None,
            self.iou_thrs,
        )

    def _collected(self, truths: Sequence[tuple]) -> Annotations:
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

    def _names(self) -> Sequence[str]:
        """Classes as the file spells them, where the set repairs spelling."""
        meta = self.dataset_meta
        return meta.get('names_in_file') or meta['classes']

    def _find_categories(self) -> None:
        """Set ``cat_ids``, the category number of each label, by name."""
        classes = self._names()
        by_name = index_categories(self._truth.read.categories)
        found = match_names(classes, by_name)
        unknown = unmatched(classes, found)
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
