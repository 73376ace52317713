# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Stage 1: contrastive image-text pretraining (paper 3.1 and 4)."""

import contextlib
import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, OptConfigType
from torch import Tensor

from ..backbones.vit_layers import crop_pos_embed, random_crop_boxes
from ..losses.contrastive_ops import full_precision
from ..protocols import (
    EmbeddingTower,
    PositionedTower,
    lacking,
    maps_of,
    require,
)
from .image_text_pretrainer import Features, ImageTextPretrainer
from .mosaic import Mosaic
from .random_regions import BatchPlace


@MODELS.register_module()
class CLIPPretrainer(ImageTextPretrainer):
    """CLIP with an average-pooled ViT and cropped positional embedding.

    The image embedding is the mean of the tower's final map, unless the
    tower is an :class:`EmbeddingTower`. There is no visual projection: text
    embeddings have the tower's width, so that a region's mean feature is
    comparable with a text without further layers.
    A converted public tower goes on as it was pretrained, with its class
    token or attention pooling and its projection; see ``head`` of
    :class:`DITOViT`.

    In training the positional embedding is enlarged to ``up_size`` and a
    random crop of it, one an image, is resampled to the token grid (RO-ViT,
    used by the paper): the tower learns to see its image as a region of a
    larger one. Evaluation uses the plain embedding.

    Args:
        backbone (dict): Config of the image tower.
        text_encoder (dict): Config of the text tower.
        cpe (dict, optional): Cropped positional embedding: ``up_size``
            (side of the enlarged grid, 64), ``scale`` (area range, (0.1, 1))
            and ``ratio`` (aspect range, (0.5, 2)). None switches it off.
        mosaic (dict, optional): Train on mosaics of images, see
            :class:`Mosaic` for the keys. The embedding of an image is then
            the mean over its tile. None, the default and the paper, trains
            on single images.
        **kwargs: See :class:`ImageTextPretrainer`.
    """

    def __init__(
        self,
        backbone: ConfigType,
        text_encoder: ConfigType,
        *,
        cpe: OptConfigType = None,
        mosaic: OptConfigType = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, text_encoder, **kwargs)
        self.mosaic = None if mosaic is None else Mosaic(**mosaic)
        self._embeds = not lacking(self.backbone, EmbeddingTower)
        if mosaic is not None:
            self._check_mosaic()
        if cpe is not None:
            require(self.backbone, PositionedTower, 'backbone with cpe')
        self.cpe: dict | None = None
        if cpe is not None:
            self.cpe = dict(up_size=64, scale=(0.1, 1.0), ratio=(0.5, 2.0))
            unknown = set(cpe) - set(self.cpe)
            if unknown:
                raise ValueError(
                    f'cpe has unknown keys {sorted(unknown)}, expected '
                    f'{sorted(self.cpe)}'
                )
            self.cpe.update(cpe)

    def _check_mosaic(self) -> None:
        """Refuse a tower whose tiles cannot be embedded by their mean."""
        head = getattr(self.backbone, 'head', None)
        pool = getattr(head, 'pool', 'a way of its own')
        if self._embeds and pool != 'avg':
            raise ValueError(
                'mosaic averages parts of the map, but the backbone pools by '
                f'{pool!r}; leave mosaic out, or set '
                "backbone.head.pool='avg'."
            )
        needed = ['patch_size']
        needed += ['global_attention'] * (self.mosaic.global_prob > 0)
        missing = [n for n in needed if not hasattr(self.backbone, n)]
        if missing:
            raise TypeError(
                f'mosaic needs a backbone with {" and ".join(missing)}, which '
                f'{type(self.backbone).__name__} does not have; leave mosaic '
                'out, or see docs/extending.md.'
            )

    def embed(
        self,
        inputs: Tensor,
        texts: list[str] | Tensor,
        place: BatchPlace | None,
    ) -> tuple[Features, Features]:
        """Embed images and texts, see the base class."""
        rois = None
        if (
            self.mosaic is not None
            and self.training
            and self.mosaic.wanted(place)
        ):
            inputs, rois = self.mosaic.compose(inputs, place)
        pos_embed = None
        if self.cpe is not None and self.training:
            pos_embed = self._cropped_pos_embed(inputs, place)
        attention: AbstractContextManager = contextlib.nullcontext()
        if rois is not None and self.mosaic.attends_globally(place):
            attention = self.backbone.global_attention()
        with attention:
            image = self._pool(inputs, pos_embed, rois)
        return dict(image=image, text=self.encode_texts(texts)), {}

    def image_embedding(self, inputs: Tensor) -> Tensor:
        """Embed images with the plain positional embedding."""
        return self._pool(inputs, None)

    def _pool(
        self,
        inputs: Tensor,
        pos_embed: Tensor | None,
        rois: Tensor | None = None,
    ) -> Tensor:
        """Embed images, or RoIs of a mosaic, to (B, D), in float32."""
        args = () if pos_embed is None else (pos_embed,)
        if rois is None and self._embeds:
            return self.backbone.embed(inputs, *args)
        feat = full_precision(maps_of(self.backbone, inputs, *args)[-1])
        if rois is None:
            return feat.mean(dim=(2, 3))
        pooled = self.mosaic.pool(feat, rois, self.backbone.patch_size)
        return self.backbone.head.finish(pooled) if self._embeds else pooled

    def _cropped_pos_embed(
        self, inputs: Tensor, place: BatchPlace | None
    ) -> Tensor:
        """Draw a crop for each image and resample it to the token grid."""
        up_size = self.cpe['up_size']

        def draw(batch: int, generator: torch.Generator | None) -> Tensor:
            return random_crop_boxes(
                batch,
                up_size,
                scale=self.cpe['scale'],
                ratio=self.cpe['ratio'],
                generator=generator,
            )

        batch, _, height, width = inputs.shape
        if height != width:
            raise ValueError(
                'cropped positional embeddings are square, got images of '
                f'{height} x {width}; use square images or cpe=None'
            )
        boxes = draw(batch, None) if place is None else place.draw(draw, batch)
        tower = self.backbone
        grid = tower.pos_embed.view(1, *tower.pos_size, -1)
        return crop_pos_embed(
            grid,
            boxes.to(inputs.device, non_blocking=True),
            up_size,
            math.ceil(height / tower.patch_size),
        )
