# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Scores over very many classes, a chunk of classes at a time."""

from typing import Any, Iterator, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


class ChunkedScores:
    """Scores of a :class:`GeometricEnsemble` without its (N, K) arrays.

    With 50,000 names the logits, softmaxes and scores of 1,000 proposals are
    200 MB each. Here the sums of the softmaxes and of the ensemble are taken
    in a first pass over chunks of classes, and a second pass gives the best
    scores. Memory does not grow with the number of classes, besides that of
    the text embeddings; the cosines are computed twice.

    Args:
        ensemble (GeometricEnsemble): The equation.
        det_embeds (Tensor): Region embeddings, shape (N, D).
        vlm_embeds (Tensor, optional): Mean features of the backbone map,
            shape (N, D). None: the score is that of the detector.
        text (Tensor): Text embeddings, background last, (K + 1, D).
        novel (Tensor): Which classes are novel, bool, (K, ).
        det_temperature (Tensor | float): Divides the cosines of the detector.
        vlm_temperature (float): Divides those of the VLM.
        objectness (Tensor, optional): Of the regions, shape (N, ).
        chunk (int): Number of classes at a time. Defaults to 4096.
    """

    def __init__(self,
                 ensemble: Any,
                 det_embeds: Tensor,
                 vlm_embeds: Optional[Tensor],
                 text: Tensor,
                 novel: Tensor,
                 *,
                 det_temperature: Tensor | float,
                 vlm_temperature: float,
                 objectness: Optional[Tensor] = None,
                 chunk: int = 4096) -> None:
        self.ensemble = ensemble
        self.chunk = chunk
        self.novel = novel
        self.text = text
        self._det = F.normalize(det_embeds.float(), dim=-1) / det_temperature
        self._vlm = None
        if vlm_embeds is not None:
            self._vlm = F.normalize(vlm_embeds.float(),
                                    dim=-1) / vlm_temperature
        with torch.autocast(text.device.type, enabled=False):
            self._factors = self._first_pass(objectness)

    @property
    def shape(self) -> Tuple[int, int]:
        """Number of regions and of classes, without background."""
        return len(self._det), len(self.novel)

    def _logits(self, low: int, high: int) -> Tuple[Tensor, Tensor]:
        """Logits of detector and VLM for some rows of the text."""
        text = F.normalize(self.text[low:high].float(), dim=-1)
        det = self._det @ text.mT
        return det, det if self._vlm is None else self._vlm @ text.mT

    def _chunks(self) -> Iterator[Tuple[int, Tensor, Tensor, Tensor]]:
        """First class, both logits and novel flags of each chunk."""
        for low in range(0, len(self.novel), self.chunk):
            high = min(low + self.chunk, len(self.novel))
            yield (low, *self._logits(low, high), self.novel[low:high])

    def _first_pass(self, objectness: Optional[Tensor]) -> Tensor:
        """What the mixed logits of regions miss to log scores, (3, N)."""
        sums = self._det.new_tensor(-torch.inf)
        for _, det, vlm, novel in self._chunks():
            sums = torch.logaddexp(sums, self.ensemble.sums(det, vlm, novel))
        det, vlm = (x[:, 0] for x in self._logits(
            len(self.novel), len(self.novel) + 1))
        in_vlm = self.ensemble.vlm_background or self._vlm is None
        return self.ensemble.log_factors(
            sums, det, vlm if in_vlm else None, objectness)

    def best(self, topk: int) -> Tuple[Tensor, Tensor]:
        """The best pairs of region and class.

        Args:
            topk (int): How many at most.

        Returns:
            Tuple[Tensor, Tensor]: Scores, float32, best first, and pairs
            ``region * K + class``, int64; of shape (min(topk, N * K), ).
        """
        num_classes = len(self.novel)
        values = self._det.new_zeros(0)
        pairs = torch.zeros(0, dtype=torch.long, device=values.device)
        base, other, _ = self._factors[..., None]
        with torch.autocast(values.device.type, enabled=False):
            for low, det, vlm, novel in self._chunks():
                scores = self.ensemble.mix(det, vlm, novel).add_(
                    torch.where(novel, other, base)).exp_()
                found, index = scores.flatten().topk(
                    min(topk, scores.numel()))
                width = len(novel)
                pair = (index // width) * num_classes + low + index % width
                values, order = torch.cat([values, found]).topk(
                    min(topk, len(values) + len(found)))
                pairs = torch.cat([pairs, pair])[order]
        return values, pairs
