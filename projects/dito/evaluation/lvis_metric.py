# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""LVIS average precision of boxes and masks, with base and novel classes."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import exists

from dito.utils.files import write_json

from ..datasets.annotations import Id, require_masks
from ..datasets.categories import list_names, match_names, unmatched
from .average_precision import (
    evaluate_lvis,
    summarize_categories,
    summarize_lvis,
)
from .detection_metric import (
    DetectionMetricMixin,
    ImageDetections,
    check_options,
    pack_predictions,
    read_labels,
    to_numpy,
)
from .detections import LVISDetections
from .ground_truth import LVISGroundTruth

_BACKENDS = ('federated', 'faster', 'lvis')
_SHOWN = (
    'AP', 'AP50', 'AP75', 'APr', 'APc', 'APf', 'APs', 'APm', 'APl',
    'base_AP', 'base_AP50', 'novel_AP', 'novel_AP50',
)  # fmt: skip


@METRICS.register_module()
class DITOLVISMetric(DetectionMetricMixin, BaseMetric):
    """LVIS AP of boxes and masks, standard and fixed.

    'standard' is the official protocol: the best 300 detections of an image
    count, over all classes. 'fixed' (boxes only) is fixed AP of Dave et al.:
    no limit per image, but the best 10,000 of each class over all images. Its
    figures are named ``bbox_fixed_AP`` and so on.

    Reported in full precision for boxes and masks: AP, AP50, AP75, by size
    (APs, APm, APl), by frequency (APr, APc, APf) and for the base and novel
    classes (base_AP, base_AP50, novel_AP, novel_AP50). Novel classes are the
    ``novel_classes`` of the data set, or those of frequency 'r'. A group
    without objects has -1, as in the lvis package.

    Labels become category ids by class name. Of the detections those are
    kept, packed, that the ground truth can judge, or all where fixed AP or
    result files are wanted. After an evaluation ``per_category`` and
    ``report`` are set (:class:`.DetectionMetricMixin`).

    Args:
        ann_file (str): Annotation file in LVIS form.
        metric (str | Sequence[str]): 'bbox' and/or 'segm'.
            Defaults to 'bbox'.
        backend (str, optional): Has no effect; accepted for one release.
        max_dets (int): Detections that count in an image. Defaults to 300.
        protocols (Sequence[str]): 'standard' and/or 'fixed'. Defaults to
            'standard'.
        max_dets_per_class (int): Detections of a class that count in fixed
            AP. Defaults to 10,000.
        classwise (bool): Whether to log the AP of every category.
        outfile_prefix (str, optional): Write all detections to
            ``PREFIX.bbox.json`` / ``PREFIX.segm.json`` (LVIS result form)
            and the AP of every category to ``PREFIX.categories.json``.
        backend_args (dict, optional): File backend of the annotation file.
        spool_dir (str, optional): Refused; it no longer has a meaning.
        **kwargs: ``protocol``, ``prefix`` ('lvis') and ``collect_device``.

    Raises:
        FileNotFoundError: If the annotation file does not exist.
        ValueError: If an option is wrong, or if the classes of the data set
            are not exactly the categories of the annotation file.
    """

    default_prefix: str | None = 'lvis'

    def __init__(
        self,
        ann_file: str,
        metric: str | Sequence[str] = 'bbox',
        backend: str | None = None,
        max_dets: int = 300,
        protocols: str | Sequence[str] = 'standard',
        max_dets_per_class: int = 10_000,
        classwise: bool = False,
        outfile_prefix: str | None = None,
        backend_args: dict | None = None,
        spool_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.metrics = check_options(metric, backend, _BACKENDS, spool_dir)
        if isinstance(protocols, str):
            protocols = [protocols]
        if not protocols or set(protocols) - {'standard', 'fixed'}:
            raise ValueError(
                "protocols must be 'standard' and/or 'fixed', but got "
                f'{protocols!r}'
            )
        if 'fixed' in protocols and 'bbox' not in self.metrics:
            raise ValueError("fixed AP is of boxes: it needs metric 'bbox'")
        if not exists(ann_file, backend_args=backend_args):
            raise FileNotFoundError(
                f'annotation file {ann_file} of the metric does not exist'
            )
        self.ann_file = ann_file
        self.max_dets = max_dets
        self.protocols = tuple(protocols)
        self.max_dets_per_class = max_dets_per_class
        self.classwise = classwise
        self.outfile_prefix = outfile_prefix
        self.backend_args = backend_args
        self.per_category = {}

    @cached_property
    def ground_truth(self) -> LVISGroundTruth:
        """The annotations, read when the data set is known."""
        return LVISGroundTruth.from_file(
            self.ann_file, self.backend_args, 'segm' in self.metrics
        )

    def meet_classes(self) -> None:
        """Compare the classes of the data set with the file."""
        gt = self.ground_truth
        vars(self).pop('_label_to_category', None)
        vars(self).pop('novel', None)
        self._label_to_category  # noqa: B018 - looked up and checked
        if 'segm' in self.metrics:
            require_masks(gt.read, gt.categories.ids)

    @cached_property
    def _label_to_category(self) -> np.ndarray:
        """Category index of each label, by class name: (K,), int64."""
        gt = self.ground_truth
        classes = (self.dataset_meta or {}).get('classes')
        if classes is None:
            raise ValueError('the data set has no classes in its metainfo')
        by_name = {name: dict(k=k) for k, name in enumerate(gt.names)}
        found = match_names(classes, by_name)
        unknown = unmatched(classes, found)
        index = [match['k'] for match in found if match is not None]
        there = set(index)
        missing = [n for k, n in enumerate(gt.names) if k not in there]
        if unknown or missing or len(there) != len(index):
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
        names = set(names)
        is_novel = [name in names for name in self.dataset_meta['classes']]
        novel = np.zeros(gt.num_categories, dtype=bool)
        novel[self._label_to_category] = is_novel
        return novel

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store what counts of the results of a batch.

        Samples have ``img_id`` and ``pred_instances`` with ``bboxes`` (N, 4),
        ``scores`` (N,), ``labels`` (N,) and, for masks, ``masks``: (N, H, W)
        or N RLE dicts.
        """
        for sample in data_samples:
            self.results.append(
                self._store(sample['img_id'], sample['pred_instances'])
            )

    def _store(self, image_id: Id, pred: dict) -> ImageDetections:
        """Keep the detections of an image that can count, best first."""
        gt = self.ground_truth
        labels = read_labels(image_id, pred, len(self._label_to_category))
        category = self._label_to_category[labels]
        number = gt.images.find(image_id)
        if number is None:
            raise ValueError(
                f'1 image ids are not in {self.ann_file}: [{image_id!r}]; '
                'are these results of another data set?'
            )
        order = np.argsort(-to_numpy(pred['scores']), kind='stable')
        counts = gt.judges(gt.to_image_index([number]), category[order])
        counts |= self.outfile_prefix is not None
        counts[self.max_dets :] = False
        # In fixed AP what is not judged has a place among the 10,000, too.
        if 'fixed' not in self.protocols:
            order, counts = order[counts], counts[counts]
        masked = counts if 'segm' in self.metrics else None
        return pack_predictions(image_id, pred, category, order, masked)

    def compute_metrics(
        self, results: list[ImageDetections]
    ) -> dict[str, float]:
        """Evaluate the images of all ranks."""
        gt = self.ground_truth
        detections = self._load(results, gt, gt.category_ids)
        scores = {
            row: self._evaluate_row(row, detections, iou_type, fixed)
            for row, iou_type, fixed in self._rows()
        }
        figures = {
            f'{row}_{name}': value
            for row, values in scores.items()
            for name, value in values.items()
        }
        title = f'LVIS {os.path.basename(self.ann_file)}'
        self._show(title, self._protocol(results), scores, _SHOWN, figures)
        if self.outfile_prefix is not None:
            self._write_results(detections.limit_per_image(self.max_dets), gt)
            path = f'{self.outfile_prefix}.categories.json'
            write_json(path, self.per_category)
        return figures

    def _rows(self) -> Iterator[tuple]:
        """Name, type and protocol (fixed or not) of each evaluation."""
        for iou_type in self.metrics:
            if 'standard' in self.protocols:
                yield iou_type, iou_type, False
            if 'fixed' in self.protocols and iou_type == 'bbox':
                yield 'bbox_fixed', iou_type, True

    def _evaluate_row(
        self, row: str, detections: LVISDetections, iou_type: str, fixed: bool
    ) -> dict[str, float]:
        """Evaluate one type by one protocol; fills ``per_category``."""
        gt = self.ground_truth
        output = evaluate_lvis(
            gt,
            detections,
            iou_type,
            self.max_dets,
            max_dets_per_class=self.max_dets_per_class if fixed else None,
        )
        self.per_category[row] = summarize_categories(
            output.precision[..., 0], gt, self.novel
        )
        return summarize_lvis(
            output, gt.frequency, self.novel, None if fixed else self.max_dets
        )

    def _protocol(self, results: list[ImageDetections]) -> dict[str, Any]:
        """The protocol."""
        names = dict(standard='standard', fixed='fixed (boxes)')
        limits = dict(
            standard=f'{self.max_dets} per image over all classes',
            fixed=f'{self.max_dets_per_class} a class over all images',
        )
        parts = self._describe(
            results,
            self.ground_truth,
            int(self.novel.sum()),
            benchmark='LVIS',
            AP=' and '.join(names[p] for p in self.protocols),
            max_dets='; '.join(limits[p] for p in self.protocols),
        )
        most = parts['most_dets_of_an_image']
        if 'fixed' in self.protocols and most <= self.max_dets:
            parts['note_on_fixed'] = (
                f'the detector gave at most {most} per image, and fixed AP '
                'has no such limit: raise test_cfg.rcnn.max_per_img'
            )
        return parts
