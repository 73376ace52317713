# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What the pretrainers behind frozen towers have in common."""

from typing import Sequence, Tuple

import torch
from torch import Tensor

from ..protocols import maps_of
from .image_text_pretrainer import ImageTextPretrainer


class FrozenTowerPretrainer(ImageTextPretrainer):
    """Base of stage 2: both towers frozen, a pyramid behind the backbone.

    The towers run in evaluation mode and without gradient, under the
    autocast of the step. Subclasses set ``neck`` and call :meth:`freeze`
    once they are built.
    """

    def freeze(self, prefixes: Sequence[str] = ()) -> None:
        """Freeze the towers and further parameters.

        Args:
            prefixes (sequence[str]): Beginnings of parameters' names.
        """
        frozen = ('backbone.', 'text_encoder.', *prefixes)
        for name, parameter in self.named_parameters():
            if name.startswith(frozen):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> 'FrozenTowerPretrainer':
        """Set the mode; the frozen towers stay in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        self.text_encoder.eval()
        return self

    def pyramid(self, inputs: Tensor) -> Tuple[Tensor, ...]:
        """Compute the maps of all levels.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).

        Returns:
            tuple[Tensor]: Maps (B, C, h, w), finest first, with gradient to
            the pyramid but not to the tower.
        """
        with torch.no_grad():
            feats = maps_of(self.backbone, inputs)
        return self.neck(feats)
