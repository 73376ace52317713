# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Stage 2: frozen towers, and the pyramid alone (paper Table 4b)."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor, nn

from ..losses.contrastive_ops import full_precision, normalize
from ..protocols import maps_of
from .image_text_pretrainer import Features, ImageTextPretrainer
from .random_regions import BatchPlace


class FrozenTowerPretrainer(ImageTextPretrainer):
    """Base of stage 2: both towers frozen, a pyramid behind the backbone.

    The towers run in evaluation mode and without gradient, under the
    autocast of the step. Subclasses set ``neck`` and call :meth:`freeze`
    once they are built.
    """

    def freeze(self, prefixes: Sequence[str] = ()) -> None:
        """Freeze the towers and parameters whose names begin so."""
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

    def pyramid(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, C, h, w), finest first, with gradient to the neck alone."""
        with torch.no_grad():
            feats = maps_of(self.backbone, inputs)
        return self.neck(feats)


@MODELS.register_module()
class PyramidPretrainer(FrozenTowerPretrainer):
    """Contrast the mean of every pyramid level with the texts.

    The first step of Table 4b: no boxes, no detector head. Levels have the
    pyramid's channels and texts the tower's width, which the paper passes
    over; here one linear layer, ``level_proj``, shared by the levels, lies
    between. The detector has no use for it.

    Args:
        backbone (dict): Config of the image tower.
        neck (dict): Config of the pyramid.
        text_encoder (dict): Config of the text tower.
        **kwargs: See :class:`ImageTextPretrainer`.
    """

    def __init__(
        self,
        backbone: ConfigType,
        neck: ConfigType,
        text_encoder: ConfigType,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, text_encoder, **kwargs)
        self.neck = MODELS.build(neck)
        self.level_proj = nn.Linear(
            self.neck.out_channels, self.text_encoder.embed_dims, bias=False
        )
        self.freeze()

    def embed(
        self,
        inputs: Tensor,
        texts: list[str] | Tensor,
        place: BatchPlace | None,
    ) -> tuple[Features, Features]:
        """Embed images by level and texts, see the base class."""
        images = self._embed_levels(inputs)
        with torch.no_grad():
            text = self.encode_texts(texts)
        return {**images, 'text': text}, {}

    def image_embedding(self, inputs: Tensor) -> Tensor:
        """Average the unit embeddings of the levels, (B, D)."""
        images = self._embed_levels(inputs).values()
        return torch.stack([normalize(x) for x in images]).mean(dim=0)

    def _embed_levels(self, inputs: Tensor) -> dict[str, Tensor]:
        """Average and project each level to (B, D), by name."""
        return {
            f'p{number}': self.level_proj(
                full_precision(feat).mean(dim=(2, 3))
            )
            for number, feat in enumerate(self.pyramid(inputs), start=2)
        }
