# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Image-text retrieval on held-out pairs."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from torch import Tensor

from .report import ReportMixin, render_table

_OF_CLASSES = ('vocabulary', 'vocabulary_sha256', 'templates', 'background')


@METRICS.register_module()
class DITORetrievalMetric(ReportMixin, BaseMetric):
    """R@1, R@5 and R@10 from images to captions and back, in percent.

    Captions with the same words are one candidate that belongs to all their
    images; a wrong candidate as similar as the right one counts as before
    it. See :func:`ranks`.

    Args:
        topk (sequence[int]): Numbers of first answers to look at.
        **kwargs: ``protocol``, ``prefix`` ('retrieval') and
            ``collect_device``.

    Attributes:
        report (dict): See :class:`.ReportMixin`.
    """

    default_prefix = 'retrieval'

    def __init__(
        self, topk: Sequence[int] = (1, 5, 10), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not topk or min(topk) < 1:
            raise ValueError(f'topk must be numbers from 1, got {topk}')
        self.topk = tuple(topk)

    def process(
        self, data_batch: Any, data_samples: Sequence[dict[str, Any]]
    ) -> None:
        """Keep unit ``image`` (D,), ``captions`` (m, D), and ``texts``.

        ValueError if they are not there.
        """
        for sample in data_samples:
            if 'captions' not in sample:
                raise ValueError(
                    'retrieval needs images with captions and no labels; use '
                    'a dataset that gives them, such as DITORetrievalDataset'
                )
            self.results.append(
                (
                    sample['image'].float().cpu(),
                    sample['captions'].float().cpu(),
                    list(sample['texts']),
                )
            )

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Rank everything with everything; see :func:`recalls`."""
        image, captions, texts = zip(*results, strict=True)
        figures = recalls(torch.stack(image), captions, texts, self.topk)
        self._publish(figures, texts)
        return figures

    def _publish(
        self, figures: dict[str, float], texts: Sequence[Sequence[str]]
    ) -> None:
        """Show and keep protocol and figures."""
        distinct = {text for group in texts for text in group}
        protocol = self.with_run(
            dict(
                benchmark='image-text retrieval',
                split=self.split,
                images=len(texts),
                captions=f'{sum(map(len, texts))} ({len(distinct)} distinct)',
                equal_captions='one candidate, of all their images',
                tie='wrong',
            ),
            leave_out=_OF_CLASSES,
        )
        ways = dict(i2t='image to captions', t2i='caption to images')
        rows = [
            [name, *(f'{figures[f"{way}_R@{k}"]:.2f}' for k in self.topk)]
            for way, name in ways.items()
        ]
        title = 'Image-text retrieval'
        table = render_table(
            title, ['percent', *(f'R@{k}' for k in self.topk)], rows
        )
        self.publish(title, protocol, figures, table)


def merge_captions(
    captions: Sequence[Tensor], texts: Sequence[Sequence[str]]
) -> tuple[Tensor, Tensor]:
    """Make one entry of captions with the same words.

    Captions of web images repeat. Two equal ones are one answer to a question,
    and all images that carry it are right: which of them a model puts first is
    chance. Returns embeddings (T, D) of the distinct captions, in the order of
    their first appearance, and bool (N, T): which image has which.
    """
    number: dict[str, int] = {}
    rows: list[Tensor] = []
    owners: list[tuple[int, int]] = []
    for image, (vectors, group) in enumerate(
        zip(captions, texts, strict=True)
    ):
        for vector, text in zip(vectors, group, strict=True):
            if text not in number:
                number[text] = len(rows)
                rows.append(vector)
            owners.append((image, number[text]))
    belongs = torch.zeros(len(texts), len(rows), dtype=torch.bool)
    belongs[tuple(torch.tensor(owners).T)] = True
    return torch.stack(rows), belongs


def ranks(
    queries: Tensor, candidates: Tensor, belongs: Tensor, chunk: int = 1024
) -> Tensor:
    """Count the wrong candidates before the best right one of each query.

    A wrong candidate that is exactly as similar counts as before it, so that a
    model with one embedding for everything finds nothing. Of unit embeddings
    (Q, D) and (C, D), and ``belongs``, bool (Q, C), come int64 (Q,); ``chunk``
    queries at a time bound the memory.
    """
    parts = []
    for rows, right in zip(
        queries.split(chunk), belongs.split(chunk), strict=True
    ):
        cosine = rows @ candidates.T
        best = cosine.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        parts.append(((cosine >= best) & ~right).sum(dim=1))
    return torch.cat(parts)


def recalls(
    image: Tensor,
    captions: Sequence[Tensor],
    texts: Sequence[Sequence[str]],
    topk: Sequence[int],
) -> dict[str, float]:
    """Recall among the first K in both directions, in percent.

    ``i2t_R@K``: images with one of their captions among the first K;
    ``t2i_R@K``: distinct captions with one of their images among the first K;
    ``mean_R`` of all these. Embeddings are unit vectors, (N, D) and (m_i, D).
    """
    text, belongs = merge_captions(captions, texts)
    found = dict(
        i2t=ranks(image, text, belongs), t2i=ranks(text, image, belongs.T)
    )
    values = {
        f'{name}_R@{k}': 100.0 * (place < k).double().mean().item()
        for name, place in found.items()
        for k in topk
    }
    return dict(values, mean_R=sum(values.values()) / len(values))
