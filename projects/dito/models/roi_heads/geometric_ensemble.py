# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Equation 2: the score of a region from those of detector and VLM."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import TASK_UTILS
from torch import Tensor


def cosine_logits(
    features: Tensor, text: Tensor, temperature: Tensor | float
) -> Tensor:
    """Cosine of every feature with every text, over a temperature.

    Args:
        features (Tensor): Region features of any scale, shape (N, D). A zero
            row has cosine 0 with everything.
        text (Tensor): Text features of any scale, shape (K, D).
        temperature (Tensor | float): A positive scalar.

    Returns:
        Tensor: Logits, float32, shape (N, K).
    """
    with torch.autocast(features.device.type, enabled=False):
        features = F.normalize(features.float(), dim=-1)
        text = F.normalize(text.float(), dim=-1)
        return features @ text.mT / temperature


def join_logits(logits: Tensor, groups: Tensor | None) -> Tensor:
    """Logits of groups of classes, whose probabilities add up.

    Args:
        logits (Tensor): Of K classes, and maybe of the background behind
            them, float32, (N, K) or (N, K + 1).
        groups (Tensor, optional): Label of each class, int64, (K, ); all of
            0 to L - 1 are there. None: each is a label of its own.

    Returns:
        Tensor: Shape (N, L) or (N, L + 1). The softmax over it is the sum of
        that over ``logits``, and a group of one has the very logit.
    """
    if groups is None:
        return logits
    num = int(groups.max()) + 1
    rest = torch.arange(
        num, num + logits.shape[1] - len(groups), device=groups.device
    )
    index = torch.cat([groups, rest]).expand(len(logits), -1)
    most = logits.new_full((len(logits), num + len(rest)), -torch.inf)
    most = most.scatter_reduce(1, index, logits, 'amax')
    sums = torch.zeros_like(most)
    sums = sums.scatter_add(1, index, (logits - most.gather(1, index)).exp())
    return most + sums.log()


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
        chunk (int): Number of labels at a time. Defaults to 4096.
        groups (Tensor, optional): Label of each class, int64, (K, ), where
            classes are joined; ``novel`` is then of the L labels.
    """

    def __init__(
        self,
        ensemble: Any,
        det_embeds: Tensor,
        vlm_embeds: Tensor | None,
        text: Tensor,
        novel: Tensor,
        *,
        det_temperature: Tensor | float,
        vlm_temperature: float,
        objectness: Tensor | None = None,
        chunk: int = 4096,
        groups: Tensor | None = None,
    ) -> None:
        self.ensemble = ensemble
        self.chunk = chunk
        self.novel = novel
        self.text = text
        self._groups = None
        if groups is not None:
            # Classes of a label side by side, so that chunks hold them all.
            self._groups, order = groups.sort(stable=True)
            self.text = torch.cat([text[:-1][order], text[-1:]])
        self._det = F.normalize(det_embeds.float(), dim=-1) / det_temperature
        self._vlm = None
        if vlm_embeds is not None:
            self._vlm = (
                F.normalize(vlm_embeds.float(), dim=-1) / vlm_temperature
            )
        with torch.autocast(text.device.type, enabled=False):
            self._factors = self._first_pass(objectness)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of regions and of labels, without background."""
        return len(self._det), len(self.novel)

    def _logits(self, low: int, high: int) -> tuple[Tensor, Tensor]:
        """Logits of detector and VLM for some labels, or the background."""
        groups = None
        if self._groups is not None:
            ends = self._groups.new_tensor([low, high])
            first, last = torch.searchsorted(self._groups, ends).tolist()
            groups = self._groups[first:last] - low
            if low == len(self.novel):  # the background, behind them all
                groups, last = None, first + 1
            low, high = first, last
        text = F.normalize(self.text[low:high].float(), dim=-1)
        det = join_logits(self._det @ text.mT, groups)
        if self._vlm is None:
            return det, det
        return det, join_logits(self._vlm @ text.mT, groups)

    def _chunks(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """First class, both logits and novel flags of each chunk."""
        for low in range(0, len(self.novel), self.chunk):
            high = min(low + self.chunk, len(self.novel))
            yield (low, *self._logits(low, high), self.novel[low:high])

    def _first_pass(self, objectness: Tensor | None) -> Tensor:
        """What the mixed logits of regions miss to log scores, (3, N)."""
        sums = self._det.new_tensor(-torch.inf)
        for _, det, vlm, novel in self._chunks():
            sums = torch.logaddexp(sums, self.ensemble.sums(det, vlm, novel))
        det, vlm = (
            x[:, 0] for x in self._logits(len(self.novel), len(self.novel) + 1)
        )
        in_vlm = self.ensemble.vlm_background or self._vlm is None
        return self.ensemble.log_factors(
            sums, det, vlm if in_vlm else None, objectness
        )

    def best(self, topk: int) -> tuple[Tensor, Tensor]:
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
                scores = (
                    self.ensemble.mix(det, vlm, novel)
                    .add_(torch.where(novel, other, base))
                    .exp_()
                )
                found, index = scores.flatten().topk(min(topk, scores.numel()))
                width = len(novel)
                pair = (index // width) * num_classes + low + index % width
                values, order = torch.cat([values, found]).topk(
                    min(topk, len(values) + len(found))
                )
                pairs = torch.cat([pairs, pair])[order]
        return values, pairs


@TASK_UTILS.register_module()
class GeometricEnsemble:
    """Geometric mean of detection and VLM scores (paper eq. 2).

    With ``p`` the softmax of the detector's logits and ``z`` that of the
    VLM's, the score of a base class is ``p^(1-alpha) z^alpha``, that of a
    novel class ``p^(1-beta) z^beta``; the background keeps ``p``. Here the
    exponents belong to ``z``, as in F-VLM and the release; the paper prints
    them the other way round. ``alpha = beta = 0`` leaves ``p``.

    All logits may be at hand at once (:meth:`__call__`) or too many for that
    (:meth:`chunked`). Both rest on one form of the equation: the logarithm of
    a score is a mix of two logits (:meth:`mix`) plus a number of its region,
    one for base and one for novel classes (:meth:`log_factors`), which needs
    only sums over classes (:meth:`sums`).

    It is one of many possible :class:`Ensemble` s.

    Args:
        alpha (float): Exponent of ``z`` for base classes. Defaults to 0.3.
        beta (float): Exponent of ``z`` for novel classes. Defaults to 0.65.
        renormalise (bool): Whether to divide the scores of a region by their
            sum over all classes and the background (release). Equation 2
            does not. Defaults to False.
        vlm_background (bool): Whether the background is a column of the
            softmax of ``z`` (release) or not (paper). Defaults to False.
        objectness_power (float): Scores are multiplied by the objectness of
            the proposal to this power; the release has 3. Equation 2 has no
            such factor, which is 0. Defaults to 0.

    Raises:
        ValueError: If an exponent is out of its range.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.65,
        renormalise: bool = False,
        vlm_background: bool = False,
        objectness_power: float = 0.0,
    ) -> None:
        for name, value in dict(alpha=alpha, beta=beta).items():
            if not 0 <= value <= 1:
                raise ValueError(
                    f'{name} is {value}; it is an exponent of '
                    'the VLM score and must be in [0, 1].'
                )
        if objectness_power < 0:
            raise ValueError(
                f'objectness_power is {objectness_power}; give '
                '0 or more: a negative power would favour '
                'regions without objects.'
            )
        self.alpha, self.beta, self.renormalise = alpha, beta, renormalise
        self.vlm_background = vlm_background
        self.objectness_power = objectness_power

    def facts(self) -> dict[str, Any]:
        """All options by name, for the protocol of an evaluation."""
        return dict(vars(self))

    def __call__(
        self,
        det_logits: Tensor,
        vlm_logits: Tensor | None,
        novel: Tensor,
        objectness: Tensor | None = None,
    ) -> Tensor:
        """Scores of all classes at once, float32, (N, K + 1).

        Logits of the detector are (N, K + 1), background last; of the VLM (N,
        K), or (N, K + 1) where the background takes part in the softmax;
        without these the score is ``p``. ``novel`` is bool (K, ); objectness
        within [0, 1], (N, ), is needed unless ``objectness_power`` is 0.
        """
        det = det_logits.float()
        # Without a VLM, z is p: equation 2 then gives p for any exponent.
        vlm = det if vlm_logits is None else vlm_logits.float()
        classes, vlm_classes, vlm_background = det[:, :-1], vlm, None
        if vlm.shape[1] == det.shape[1]:
            vlm_classes, vlm_background = vlm[:, :-1], vlm[:, -1]
        base, other, background = self.log_factors(
            self.sums(classes, vlm_classes, novel),
            det[:, -1],
            vlm_background,
            objectness,
        )
        logs = self.mix(classes, vlm_classes, novel) + torch.where(
            novel, other[:, None], base[:, None]
        )
        background = det[:, -1] + background
        return torch.cat([logs, background[:, None]], dim=1).exp()

    def chunked(self, *args: Any, **kwargs: Any) -> ChunkedScores:
        """The same over very many classes, see :class:`ChunkedScores`."""
        return ChunkedScores(self, *args, **kwargs)

    def mix(self, det: Tensor, vlm: Tensor, novel: Tensor) -> Tensor:
        """Mix the logits of classes by their exponents.

        Args:
            det (Tensor): Of the detector, float32, (N, k).
            vlm (Tensor): Of the VLM, float32, (N, k).
            novel (Tensor): Which of these classes are novel, bool, (k, ).

        Returns:
            Tensor: Shape (N, k).
        """
        weight = torch.where(novel, self.beta, self.alpha)
        return torch.lerp(det, vlm, weight.to(det))

    def sums(self, det: Tensor, vlm: Tensor, novel: Tensor) -> Tensor:
        """Log of sums of exponentials over classes.

        Those of several sets of classes add up by ``torch.logaddexp``.

        Args:
            det (Tensor): See :meth:`mix`, as the others.
            vlm (Tensor): Logits of the VLM.
            novel (Tensor): Which classes are novel.

        Returns:
            Tensor: Shape (2, N): of the detector's logits and of the VLM's;
            to renormalise (4, N), also of the mix over base and over novel
            classes. Over no class it is -inf.
        """
        sums = [det.logsumexp(dim=1), vlm.logsumexp(dim=1)]
        if self.renormalise:
            mix = self.mix(det, vlm, novel)
            # By where, not by index: its result has a known size.
            sums += [
                torch.where(x, mix, -torch.inf).logsumexp(dim=1)
                for x in (~novel, novel)
            ]
        return torch.stack(sums)

    def log_factors(
        self,
        sums: Tensor,
        det_background: Tensor,
        vlm_background: Tensor | None = None,
        objectness: Tensor | None = None,
    ) -> Tensor:
        """What the mixed logits of a region miss to the log of its scores.

        Args:
            sums (Tensor): See :meth:`sums`, over all classes.
            det_background (Tensor): The detector's logit of the background,
                (N, ).
            vlm_background (Tensor, optional): That of the VLM, (N, ); None
                where it takes no part in the softmax of ``z``.
            objectness (Tensor, optional): See :meth:`__call__`.

        Returns:
            Tensor: Shape (3, N): for base classes, for novel ones and for
            the background.
        """
        det_sum = torch.logaddexp(sums[0], det_background)
        vlm_sum = (
            sums[1]
            if vlm_background is None
            else torch.logaddexp(sums[1], vlm_background)
        )
        factors = -torch.stack(
            [
                torch.lerp(det_sum, vlm_sum, weight)
                for weight in (self.alpha, self.beta, 0.0)
            ]
        )
        if self.renormalise:
            parts = torch.cat([sums[2:], det_background[None]])
            factors = factors - (parts + factors).logsumexp(dim=0)
        if self.objectness_power:
            factors = factors + self.objectness_power * (
                objectness.float().log()
            )
        return factors
