# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Equation 2: the score of a region from those of detector and VLM."""

from typing import Any, Dict, Optional

import torch
from mmdet.registry import TASK_UTILS
from torch import Tensor

from .chunked_scores import ChunkedScores


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

    def __init__(self,
                 alpha: float = 0.3,
                 beta: float = 0.65,
                 renormalise: bool = False,
                 vlm_background: bool = False,
                 objectness_power: float = 0.0) -> None:
        for name, value in dict(alpha=alpha, beta=beta).items():
            if not 0 <= value <= 1:
                raise ValueError(f'{name} is {value}; it is an exponent of '
                                 'the VLM score and must be in [0, 1].')
        if objectness_power < 0:
            raise ValueError(f'objectness_power is {objectness_power}; give '
                             '0 or more: a negative power would favour '
                             'regions without objects.')
        self.alpha, self.beta, self.renormalise = alpha, beta, renormalise
        self.vlm_background = vlm_background
        self.objectness_power = objectness_power

    def facts(self) -> Dict[str, Any]:
        """All options by name, for the protocol of an evaluation."""
        return dict(vars(self))

    def __call__(self,
                 det_logits: Tensor,
                 vlm_logits: Optional[Tensor],
                 novel: Tensor,
                 objectness: Optional[Tensor] = None) -> Tensor:
        """Scores of all classes at once.

        Args:
            det_logits (Tensor): Shape (N, K + 1), background last.
            vlm_logits (Tensor, optional): Shape (N, K), or (N, K + 1) where
                the background takes part in the softmax. None: the score is
                ``p``.
            novel (Tensor): Which classes are novel, bool, shape (K, ).
            objectness (Tensor, optional): Of the proposals, within [0, 1],
                shape (N, ); needed unless ``objectness_power`` is 0.

        Returns:
            Tensor: Scores, float32, shape (N, K + 1), background last.
        """
        num = novel.numel()
        det = det_logits.float()
        # Without a VLM, z is p: equation 2 then gives p for any exponent.
        vlm = det if vlm_logits is None else vlm_logits.float()
        classes, vlm_classes = det[:, :num], vlm[:, :num]
        base, other, background = self.log_factors(
            self.sums(classes, vlm_classes, novel), det[:, num],
            vlm[:, num] if vlm.shape[1] > num else None, objectness)
        logs = self.mix(classes, vlm_classes, novel) + torch.where(
            novel, other[:, None], base[:, None])
        background = det[:, num] + background
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
            sums += [mix[:, x].logsumexp(dim=1) for x in (~novel, novel)]
        return torch.stack(sums)

    def log_factors(self,
                    sums: Tensor,
                    det_background: Tensor,
                    vlm_background: Optional[Tensor] = None,
                    objectness: Optional[Tensor] = None) -> Tensor:
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
        vlm_sum = sums[1] if vlm_background is None else torch.logaddexp(
            sums[1], vlm_background)
        factors = -torch.stack([
            torch.lerp(det_sum, vlm_sum, weight)
            for weight in (self.alpha, self.beta, 0.0)])
        if self.renormalise:
            parts = torch.cat([sums[2:], det_background[None]])
            factors = factors - (parts + factors).logsumexp(dim=0)
        if self.objectness_power:
            factors = factors + self.objectness_power * (
                objectness.float().log())
        return factors
