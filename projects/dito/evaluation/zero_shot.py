# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Zero-shot classification accuracy."""

from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from .report import ReportMixin
from .result_table import render_table


@METRICS.register_module()
class DITOZeroShotMetric(ReportMixin, BaseMetric):
    """Top-1 and top-5 accuracy over all, base and novel classes.

    Images of all classes are classified into all classes; 'base' and 'novel'
    average over the images of these classes. Accuracies are in percent, over
    images (not over classes).

    Args:
        topk (sequence[int]): Numbers of best classes to look at.
        protocol (dict, optional): What else belongs to the protocol.
        collect_device (str): Where results of processes are collected.
        prefix (str, optional): Prefix of the names. Defaults to 'zero_shot'.

    Attributes:
        report (dict): See :class:`.ReportMixin`.
    """

    default_prefix = 'zero_shot'

    def __init__(self,
                 topk: Sequence[int] = (1, 5),
                 protocol: Optional[dict] = None,
                 collect_device: str = 'cpu',
                 prefix: Optional[str] = None) -> None:
        super().__init__(collect_device, prefix)
        self.topk = tuple(topk)
        self.protocol = dict(protocol or {})

    def process(self, data_batch: Any,
                data_samples: Sequence[Dict[str, Any]]) -> None:
        """Note for each image its label and the place of its class.

        Args:
            data_batch (Any): Unused.
            data_samples (sequence[dict]): ``pred_labels`` (best first) and
                ``gt_label`` of each image.

        Raises:
            ValueError: If an image has no label.
        """
        for sample in data_samples:
            if sample['gt_label'] is None:
                raise ValueError(
                    'zero-shot accuracy needs labels; use a dataset that '
                    'gives them, such as DITOFolderDataset')
            label, best = int(sample['gt_label']), list(sample['pred_labels'])
            place = best.index(label) if label in best else len(best)
            self.results.append((label, place))

    def compute_metrics(self, results: List[tuple]) -> Dict[str, float]:
        """Average over the images of each group of classes.

        Args:
            results (list[tuple[int, int]]): Label and place of each image.

        Returns:
            dict[str, float]: ``GROUP_topK`` in percent; a group without
            images is left out.
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
            for group, mask in groups.items() for k in self.topk
        }
        rows = [[
            group, f'{mask.sum()}', f'{len(np.unique(labels[mask]))}',
            *(f'{figures[f"{group}_top{k}"]:.2f}' for k in self.topk)
        ] for group, mask in groups.items()]
        self._publish(figures, rows, len(labels))
        return figures

    def _publish(self, figures: Dict[str, float], rows: List[List[str]],
                 images: int) -> None:
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
                mean='over images'),
            leave_out=('background', ))
        table = render_table(
            title,
            ['percent', 'images', 'classes', *(f'top-{k}' for k in self.topk)],
            rows)
        self.publish(title, protocol, figures, table)
