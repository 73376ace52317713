# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Accuracy of the classification of given boxes and of whole images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from .report import ReportMixin, render_table

_FREQUENCIES = dict(r='rare', c='common', f='frequent')
_SCORES = dict(
    vlm='z, of the image-text backbone',
    det='p, of the box head',
    ensemble='p and z, as in detection',
)
# Boxes are given: neither are there proposals, nor is anything kept or cut.
_OF_DETECTION = (
    'proposals',
    'objectness_power',
    'score_thr',
    'nms_iou',
    'max_per_img',
)
_OF_THE_ENSEMBLE = ('alpha', 'beta', 'renormalise', 'ensemble')
_OF_VLM = ('vlm_background', 'vlm_roi_scale', 'vlm_temperature')


@METRICS.register_module()
class DITORegionMetric(ReportMixin, BaseMetric):
    """Top-1 accuracy over annotated boxes (paper, Table 6a).

    A box is named right if the score of its own class is greater than that
    of every other class. **Ties count as wrong**, so that a figure depends
    neither on the order of the classes nor on a sorting algorithm, and a
    model that gives all classes one score has 0. Scores that are not finite
    are an error.

    Figures are in percent: ``all_top1``, ``base_top1`` and ``novel_top1``
    over boxes; ``all_mean``, ``base_mean``, ``novel_mean`` and, where the
    data set has frequencies, ``rare_mean``, ``common_mean`` and
    ``frequent_mean`` over the accuracies of the categories, each counting
    alike, categories without boxes left out. A box always competes with all
    classes of the data set, base and novel. Crowd and ignored boxes do not
    count. The number of boxes is ``boxes``. A group without boxes is left
    out.

    Args:
        **kwargs: ``protocol``, ``prefix`` ('region') and ``collect_device``.

    Attributes:
        per_category (dict[str, list[dict]]): After an evaluation, under
            'top1', ``name``, ``frequency``, ``novel``, ``boxes`` and
            ``top1`` (in percent, -1 without boxes) of each class.
        report (dict): See :class:`.ReportMixin`.
    """

    default_prefix = 'region'

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.per_category: dict[str, list[dict]] = {}
        self._score: str | None = None

    def process(
        self, data_batch: Any, data_samples: Sequence[dict[str, Any]]
    ) -> None:
        """Note the class of each box and whether it was named right.

        Samples have ``gt_instances`` with ``labels`` (N,) and ``pred_regions``
        with ``scores`` (N, K), and ``score``, their name. ValueError if
        predictions are missing or do not fit the data.
        """
        for sample in data_samples:
            if 'pred_regions' not in sample:
                raise ValueError(
                    'The model has not classified the annotated boxes: set '
                    "model.test_cfg.given_boxes='vlm' and load annotations "
                    'in the test pipeline, or use '
                    'dito region-accuracy.'
                )
            labels = sample['gt_instances']['labels'].cpu().numpy()
            scores = sample['pred_regions']['scores'].float().cpu().numpy()
            self._check(labels, scores)
            self._score = sample['pred_regions'].get('score')
            # One entry an image: that is what a sampler may repeat.
            self.results.append((labels, is_right(scores, labels)))

    def _check(self, labels: np.ndarray, scores: np.ndarray) -> None:
        """Refuse scores of other boxes or of another vocabulary."""
        wanted = (len(labels), len(self.dataset_meta['classes']))
        if scores.shape != wanted:
            raise ValueError(
                f'The scores of an image have shape {scores.shape}, expected '
                f'{wanted}: one row per box, one column per class of the data '
                'set; is the vocabulary of the model that of the data set?'
            )
        if not np.isfinite(scores).all():
            raise ValueError('An image has scores that are not finite.')

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Average over boxes and over categories."""
        classes = self.dataset_meta['classes']
        labels = np.concatenate([np.zeros(0, int), *(r[0] for r in results)])
        right = np.array([ok for r in results for ok in r[1]], dtype=float)
        count = np.bincount(labels, minlength=len(classes))
        hits = np.bincount(labels, right, minlength=len(classes))
        figures = dict(boxes=float(len(labels)))
        rows = []
        for group, members in self._groups(classes).items():
            boxes = count[members]
            if not boxes.any():
                continue
            seen = boxes > 0
            mean = 100 * float((hits[members][seen] / boxes[seen]).mean())
            top1 = 100 * float(hits[members].sum() / boxes.sum())
            if group not in _FREQUENCIES.values():
                figures[f'{group}_top1'] = top1
            figures[f'{group}_mean'] = mean
            rows.append(
                [
                    group,
                    f'{boxes.sum()}',
                    f'{seen.sum()}',
                    f'{top1:.2f}',
                    f'{mean:.2f}',
                ]
            )
        self._publish(figures, rows, len(results), count, hits)
        return figures

    def _publish(
        self,
        figures: dict[str, float],
        rows: list[list[str]],
        images: int,
        count: np.ndarray,
        hits: np.ndarray,
    ) -> None:
        """Show and keep protocol and figures."""
        meta = self.dataset_meta
        classes = meta['classes']
        novel = np.isin(classes, list(meta.get('novel_classes') or ()))
        frequency = meta.get('frequency') or [''] * len(classes)
        self.per_category['top1'] = [
            dict(
                id=k,
                name=name,
                frequency=frequency[k],
                novel=bool(novel[k]),
                boxes=int(count[k]),
                top1=100 * float(hits[k] / count[k]) if count[k] else -1.0,
            )
            for k, name in enumerate(classes)
        ]
        protocol = self.with_run(
            dict(
                benchmark='classification of annotated boxes',
                split=self.split,
                images=images,
                boxes=int(count.sum()),
                classes=f'{len(classes)} ({int(novel.sum())} novel)',
                score=_SCORES.get(self._score, self._score),
                right='the class of its own annotation is first',
                tie='wrong',
                competing='all classes, base and novel',
                left_out='crowd and ignored boxes',
            ),
            self._without_meaning(),
        )
        title = 'Annotated boxes'
        table = render_table(
            title,
            ['percent', 'boxes', 'classes', 'top-1', 'mean over classes'],
            rows,
        )
        self.publish(title, protocol, figures, table, self.per_category)

    def _without_meaning(self) -> Sequence[str]:
        """Facts of the run that do not bear on this score."""
        return dict(
            vlm=_OF_DETECTION + _OF_THE_ENSEMBLE,
            det=_OF_DETECTION + _OF_THE_ENSEMBLE + _OF_VLM,
        ).get(self._score, _OF_DETECTION)

    def _groups(self, classes: Sequence[str]) -> dict[str, np.ndarray]:
        """Which classes belong to each group, bool (K,)."""
        meta = self.dataset_meta
        novel = np.isin(classes, list(meta.get('novel_classes') or ()))
        groups = dict(all=np.ones(len(classes), bool))
        if novel.any():
            groups.update(base=~novel, novel=novel)
        frequency = np.array(meta.get('frequency') or [''] * len(classes))
        for letter, name in _FREQUENCIES.items():
            groups[name] = frequency == letter
        return groups


def is_right(scores: np.ndarray, labels: np.ndarray) -> list[bool]:
    """Whether each row's own class alone has the greatest score of (N, K)."""
    rows = np.arange(len(labels))
    own = scores[rows, labels]
    others = scores.copy()
    others[rows, labels] = -np.inf
    best = others.max(axis=1, initial=-np.inf)
    return (own > best).tolist()


@METRICS.register_module()
class DITOZeroShotMetric(ReportMixin, BaseMetric):
    """Top-1 and top-5 accuracy over all, base and novel classes.

    Images of all classes are classified into all classes; 'base' and 'novel'
    average over the images of these classes. Accuracies are in percent, over
    images (not over classes).

    Args:
        topk (sequence[int]): Numbers of best classes to look at.
        **kwargs: ``protocol``, ``prefix`` ('zero_shot') and
            ``collect_device``.

    Attributes:
        report (dict): See :class:`.ReportMixin`.
    """

    default_prefix = 'zero_shot'

    def __init__(self, topk: Sequence[int] = (1, 5), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.topk = tuple(topk)

    def process(
        self, data_batch: Any, data_samples: Sequence[dict[str, Any]]
    ) -> None:
        """Note the ``gt_label`` of each image and the place of its class.

        ``pred_labels`` are best first; ValueError if an image has no label.
        """
        for sample in data_samples:
            if sample['gt_label'] is None:
                raise ValueError(
                    'zero-shot accuracy needs labels; use a dataset that '
                    'gives them, such as DITOFolderDataset'
                )
            label, best = int(sample['gt_label']), list(sample['pred_labels'])
            place = best.index(label) if label in best else len(best)
            self.results.append((label, place))

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Average over the images of each group: ``GROUP_topK``.

        A group without images is left out.
        """
        labels, places = np.array(results).T
        names = np.array(self.dataset_meta['classes'])[labels]
        groups = dict(all=np.ones(len(labels), bool))
        for group in ('base', 'novel'):
            chosen = self.dataset_meta.get(f'{group}_classes', ())
            groups[group] = np.isin(names, list(chosen))
        groups = {g: mask for g, mask in groups.items() if mask.any()}
        figures = {
            f'{group}_top{k}': 100.0 * float((places[mask] < k).mean())
            for group, mask in groups.items()
            for k in self.topk
        }
        rows = [
            [
                group,
                f'{mask.sum()}',
                f'{len(np.unique(labels[mask]))}',
                *(f'{figures[f"{group}_top{k}"]:.2f}' for k in self.topk),
            ]
            for group, mask in groups.items()
        ]
        self._publish(figures, rows, len(labels))
        return figures

    def _publish(
        self, figures: dict[str, float], rows: list[list[str]], images: int
    ) -> None:
        """Show and keep protocol and figures."""
        meta = self.dataset_meta
        novel = len(meta.get('novel_classes') or ())
        title = 'Zero-shot classification'
        protocol = self.with_run(
            dict(
                benchmark='zero-shot classification',
                split=self.split,
                images=images,
                classes=f'{len(meta["classes"])} ({novel} novel)',
                competing='all classes, base and novel',
                mean='over images',
            ),
            leave_out=('background',),
        )
        table = render_table(
            title,
            ['percent', 'images', 'classes', *(f'top-{k}' for k in self.topk)],
            rows,
        )
        self.publish(title, protocol, figures, table)
