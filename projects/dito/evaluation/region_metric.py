# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Accuracy of the classification of given boxes."""

from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

_FREQUENCIES = dict(r='rare', c='common', f='frequent')


@METRICS.register_module()
class DITORegionMetric(BaseMetric):
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
        collect_device (str): 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): Prefix of the names. Defaults to 'region'.
    """

    default_prefix = 'region'

    def __init__(self,
                 collect_device: str = 'cpu',
                 prefix: Optional[str] = None) -> None:
        super().__init__(collect_device, prefix)

    def process(self, data_batch: Any,
                data_samples: Sequence[Dict[str, Any]]) -> None:
        """Note the class of each box and whether it was named right.

        Args:
            data_batch (Any): Unused.
            data_samples (sequence[dict]): ``gt_instances`` with ``labels``
                (N,) and ``pred_regions`` with ``scores`` (N, K), as
                :class:`DITORegionClassifier` gives them.

        Raises:
            ValueError: If predictions are missing or do not fit the data.
        """
        for sample in data_samples:
            if 'pred_regions' not in sample:
                raise ValueError(
                    'The model does not classify given boxes: set '
                    "model.type='DITORegionClassifier', or use "
                    'tools/analysis_tools/region_accuracy.py.')
            labels = sample['gt_instances']['labels'].cpu().numpy()
            scores = sample['pred_regions']['scores'].float().cpu().numpy()
            self._check(labels, scores)
            # One entry an image: that is what a sampler may repeat.
            self.results.append((labels, is_right(scores, labels)))

    def _check(self, labels: np.ndarray, scores: np.ndarray) -> None:
        """Refuse scores of other boxes or of another vocabulary."""
        wanted = (len(labels), len(self.dataset_meta['classes']))
        if scores.shape != wanted:
            raise ValueError(
                f'The scores of an image have shape {scores.shape}, expected '
                f'{wanted}: a row a box, a column a class of the data set; '
                'is the vocabulary of the model that of the data set?')
        if not np.isfinite(scores).all():
            raise ValueError('An image has scores that are not finite.')

    def compute_metrics(self, results: List[tuple]) -> Dict[str, float]:
        """Average over boxes and over categories.

        Args:
            results (list[tuple]): For each image the labels of its boxes,
                and whether each was named right.

        Returns:
            dict[str, float]: See the class.
        """
        classes = self.dataset_meta['classes']
        labels = np.concatenate([np.zeros(0, int), *(r[0] for r in results)])
        right = np.array([ok for r in results for ok in r[1]], dtype=float)
        count = np.bincount(labels, minlength=len(classes))
        hits = np.bincount(labels, right, minlength=len(classes))
        figures = dict(boxes=float(len(labels)))
        for group, members in self._groups(classes).items():
            boxes = count[members]
            if not boxes.any():
                continue
            if group not in _FREQUENCIES.values():
                figures[f'{group}_top1'] = 100 * float(
                    hits[members].sum() / boxes.sum())
            seen = boxes > 0
            figures[f'{group}_mean'] = 100 * float(
                (hits[members][seen] / boxes[seen]).mean())
        return figures

    def _groups(self, classes: Sequence[str]) -> Dict[str, np.ndarray]:
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


def is_right(scores: np.ndarray, labels: np.ndarray) -> List[bool]:
    """Whether each row's own class alone has the greatest score.

    Args:
        scores (np.ndarray): Shape (N, K).
        labels (np.ndarray): Own class of each row, int, shape (N,).

    Returns:
        list[bool]: N answers; False for a tie.
    """
    rows = np.arange(len(labels))
    own = scores[rows, labels]
    others = scores.copy()
    others[rows, labels] = -np.inf
    best = others.max(axis=1, initial=-np.inf)
    return (own > best).tolist()
