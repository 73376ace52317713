# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Scores over very many classes, a chunk of classes at a time."""

from typing import Iterator, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


class ChunkedScores:
    """The ensemble of :func:`ensemble_scores` without its (N, K) arrays.

    With 50,000 names the logits, softmaxes and scores of 1,000 proposals are
    200 MB each. Here the sums of the softmaxes and of the ensemble are taken
    in a first pass over chunks of classes, and a second pass gives the best
    scores. Memory does not grow with the number of classes, besides that of
    the text embeddings; the cosines are computed twice.

    Args:
        det_embeds (Tensor): Region embeddings, shape (N, D).
        vlm_embeds (Tensor, optional): Mean features of the backbone map,
            shape (N, D). None: the score is that of the detector.
        text (Tensor): Text embeddings, background last, (K + 1, D).
        novel (Tensor): Which classes are novel, bool, (K, ).
        det_temperature (Tensor | float): Divides the cosines of the detector.
        vlm_temperature (float): Divides those of the VLM.
        alpha (float): Exponent of the VLM score for base classes.
        beta (float): The same for novel classes.
        renormalise (bool): Whether rows are divided by their sum.
        vlm_background (bool): Whether the background is a column of the VLM's
            softmax.
        row_scale (Tensor, optional): Multiplies the scores of each region,
            shape (N, ).
        chunk (int): Number of classes at a time. Defaults to 4096.
    """

    def __init__(self,
                 det_embeds: Tensor,
                 vlm_embeds: Optional[Tensor],
                 text: Tensor,
                 novel: Tensor,
                 *,
                 det_temperature: Tensor | float,
                 vlm_temperature: float,
                 alpha: float,
                 beta: float,
                 renormalise: bool = True,
                 vlm_background: bool = False,
                 row_scale: Optional[Tensor] = None,
                 chunk: int = 4096) -> None:
        self.chunk = chunk
        self.novel = novel
        self.text = text
        self.alpha, self.beta = (alpha, beta) if vlm_embeds is not None else (
            0.0, 0.0)
        self._det = F.normalize(det_embeds.float(), dim=-1) / det_temperature
        self._vlm = None
        if vlm_embeds is not None:
            self._vlm = F.normalize(vlm_embeds.float(),
                                    dim=-1) / vlm_temperature
        with torch.autocast(text.device.type, enabled=False):
            # Log of what exp(mix of logits) is multiplied by, for base and
            # for novel classes.
            self._shift = self._first_pass(renormalise, vlm_background)
        if row_scale is not None:
            self._shift = [s + row_scale.float().log() for s in self._shift]

    @property
    def shape(self) -> Tuple[int, int]:
        """Number of regions and of classes, without background."""
        return len(self._det), len(self.novel)

    def _logits(self, low: int, high: int) -> Tuple[Tensor, Tensor]:
        """Logits of detector and VLM for some rows of the text."""
        text = F.normalize(self.text[low:high].float(), dim=-1)
        det = self._det @ text.mT
        return det, det if self._vlm is None else self._vlm @ text.mT

    def _mixed(self) -> Iterator[Tuple[int, Tensor, Tensor, Tensor, Tensor]]:
        """First class, novel flags, both logits and their mix, by chunk."""
        for low in range(0, len(self.novel), self.chunk):
            high = min(low + self.chunk, len(self.novel))
            det, vlm = self._logits(low, high)
            novel = self.novel[low:high]
            mix = det
            if self._vlm is not None:
                weight = torch.where(novel, self.beta, self.alpha)
                mix = torch.lerp(det, vlm, weight.to(det))
            yield low, novel, det, vlm, mix

    def _first_pass(self, renormalise: bool,
                    vlm_background: bool) -> list[Tensor]:
        """Sums over all classes: shift of base and novel classes, (N, )."""
        num = len(self._det)
        nothing = self._det.new_full((num, ), -torch.inf)
        det_bg, vlm_bg = (x[:, 0] for x in self._logits(
            len(self.novel), len(self.novel) + 1))
        det_sum = det_bg
        vlm_sum = vlm_bg if vlm_background else nothing
        mix_sums = [nothing, nothing]
        for _, novel, det, vlm, mix in self._mixed():
            det_sum = torch.logaddexp(det_sum, det.logsumexp(1))
            if self._vlm is not None:
                vlm_sum = torch.logaddexp(vlm_sum, vlm.logsumexp(1))
            if renormalise:
                for i, members in enumerate((~novel, novel)):
                    if members.any():
                        mix_sums[i] = torch.logaddexp(
                            mix_sums[i], mix[:, members].logsumexp(1))
        if self._vlm is None:
            vlm_sum = torch.zeros_like(det_sum)
        shift = [-torch.lerp(det_sum, vlm_sum, w)
                 for w in (self.alpha, self.beta)]
        if not renormalise or self._vlm is None:
            return shift
        total = det_bg - det_sum
        for mix_sum, add in zip(mix_sums, shift, strict=True):
            total = torch.logaddexp(total, mix_sum + add)
        return [s - total for s in shift]

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
        with torch.autocast(values.device.type, enabled=False):
            for low, novel, _, _, mix in self._mixed():
                shift = torch.where(novel, self._shift[1][:, None],
                                    self._shift[0][:, None])
                scores = mix.add_(shift).exp_()
                found, index = scores.flatten().topk(
                    min(topk, scores.numel()))
                width = len(novel)
                pair = (index // width) * num_classes + low + index % width
                values, order = torch.cat([values, found]).topk(
                    min(topk, len(values) + len(found)))
                pairs = torch.cat([pairs, pair])[order]
        return values, pairs
