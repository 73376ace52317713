# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Image-text retrieval on held-out pairs."""

from typing import Any, Dict, List, Optional, Sequence

import torch
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from .report import ReportMixin
from .result_table import render_table
from .retrieval_ops import recalls

_OF_CLASSES = ('vocabulary', 'vocabulary_sha256', 'templates', 'background')


@METRICS.register_module()
class DITORetrievalMetric(ReportMixin, BaseMetric):
    """R@1, R@5 and R@10 from images to captions and back, in percent.

    Captions with the same words are one candidate that belongs to all their
    images; a wrong candidate as similar as the right one counts as before
    it. See :mod:`dito.evaluation.retrieval_ops`.

    Args:
        topk (sequence[int]): Numbers of first answers to look at.
        protocol (dict, optional): What else belongs to the protocol.
        collect_device (str): Where results of processes are collected.
        prefix (str, optional): Prefix of the names. Defaults to 'retrieval'.

    Attributes:
        report (dict): See :class:`.ReportMixin`.
    """

    default_prefix = 'retrieval'

    def __init__(self,
                 topk: Sequence[int] = (1, 5, 10),
                 protocol: Optional[dict] = None,
                 collect_device: str = 'cpu',
                 prefix: Optional[str] = None) -> None:
        super().__init__(collect_device, prefix)
        if not topk or min(topk) < 1:
            raise ValueError(f'topk must be numbers from 1, got {topk}')
        self.topk = tuple(topk)
        self.protocol = dict(protocol or {})

    def process(self, data_batch: Any,
                data_samples: Sequence[Dict[str, Any]]) -> None:
        """Keep the embeddings of a batch.

        Args:
            data_batch (Any): Unused.
            data_samples (sequence[dict]): ``image`` (D,), ``captions``
                (m, D), unit vectors, and ``texts``, m captions, of each.

        Raises:
            ValueError: If they are not there.
        """
        for sample in data_samples:
            if 'captions' not in sample:
                raise ValueError(
                    'retrieval needs images with captions and no labels; use '
                    'a dataset that gives them, such as DITORetrievalDataset')
            self.results.append(
                (sample['image'].float().cpu(),
                 sample['captions'].float().cpu(), list(sample['texts'])))

    def compute_metrics(self, results: List[tuple]) -> Dict[str, float]:
        """Rank everything with everything.

        Args:
            results (list[tuple]): Image, captions and texts of each sample.

        Returns:
            dict[str, float]: See :func:`recalls`.
        """
        image, captions, texts = zip(*results, strict=True)
        figures = recalls(torch.stack(image), captions, texts, self.topk)
        self._publish(figures, texts)
        return figures

    def _publish(self, figures: Dict[str, float],
                 texts: Sequence[Sequence[str]]) -> None:
        """Show and keep protocol and figures."""
        distinct = {text for group in texts for text in group}
        protocol = self.with_run(
            dict(
                benchmark='image-text retrieval',
                split=self.split,
                images=len(texts),
                captions=f'{sum(map(len, texts))} '
                f'({len(distinct)} distinct)',
                equal_captions='one candidate, of all their images',
                tie='wrong'),
            leave_out=_OF_CLASSES)
        ways = dict(i2t='image to captions', t2i='caption to images')
        rows = [[name, *(f'{figures[f"{way}_R@{k}"]:.2f}' for k in self.topk)]
                for way, name in ways.items()]
        title = 'Image-text retrieval'
        table = render_table(
            title, ['percent', *(f'R@{k}' for k in self.topk)], rows)
        self.publish(title, protocol, figures, table)
