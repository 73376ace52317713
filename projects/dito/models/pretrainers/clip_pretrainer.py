# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Stage 1: contrastive image-text pretraining (paper 3.1 and 4); mosaics."""

import contextlib
import math
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, OptConfigType
from torch import Tensor
from torchvision.ops import roi_align

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
from .random_regions import BatchPlace


class Mosaic:
    """Puts grid x grid images into one picture, each in its own tile.

    A tower that only saw whole images knows nothing of an object beside
    others or cut by a window's border. In a mosaic it meets both, and the
    mean over a tile is the region feature that the detector will pool, with
    a caption that is known: no box is needed.

    The picture is as large as its images side by side. Its inner borders are
    moved at random, so that tiles differ in size and do not agree with the
    windows of the tower.

    Args:
        grid (int): Images along a side.
        jitter (float): Largest shift of an inner border, as a share of an
            image's side, in [0, 0.5).
        prob (float): Share of the iterations that use mosaics; the others
            keep the tower used to whole images. Defaults to 1.
        global_prob (float): Share of the mosaics' iterations in which all
            layers attend to the whole picture, whatever windows the tower
            has. Defaults to 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        grid: int = 3,
        jitter: float = 0.35,
        prob: float = 1.0,
        global_prob: float = 0.0,
    ) -> None:
        if (
            grid < 1
            or not 0 <= jitter < 0.5
            or not 0 <= prob <= 1
            or not 0 <= global_prob <= 1
        ):
            raise ValueError(
                'mosaic needs a grid of at least 1, a jitter in [0, 0.5) and '
                'a prob and global_prob in [0, 1], got '
                f'{grid}, {jitter}, {prob} and {global_prob}'
            )
        self.grid = grid
        self.jitter = jitter
        self.prob = prob
        self.global_prob = global_prob

    def wanted(self, place: BatchPlace | None) -> bool:
        """Tell whether this iteration uses mosaics, on all ranks alike."""
        return self._uniform(place, 0) < self.prob

    def attends_globally(self, place: BatchPlace | None) -> bool:
        """Tell whether this mosaic is seen without windows, see ``wanted``."""
        return self._uniform(place, 1) < self.global_prob

    @staticmethod
    def _uniform(place: BatchPlace | None, number: int) -> float:
        """Draw in [0, 1), the same on all ranks."""
        if place is None:
            return torch.rand(()).item()
        rng = np.random.default_rng((place.seed, place.iteration))
        return float(rng.random(number + 1)[number])

    def borders(
        self, count: int, side: int, place: BatchPlace | None
    ) -> Tensor:
        """Draw the borders of the tiles in whole pixels.

        int64 (M, 2, grid + 1), vertical then horizontal, from 0 to ``grid *
        side``.
        """
        tiles = self.grid**2
        shape = (2, self.grid - 1)
        if place is None:
            uniform = torch.rand(count, *shape)
        else:
            uniform = place.rand(count * tiles, shape)[::tiles]
        steps = torch.arange(self.grid + 1) * side
        borders = steps.repeat(count, 2, 1)
        shift = (uniform * 2 - 1) * self.jitter * side
        borders[..., 1:-1] += shift.round().long()
        return borders

    def compose(
        self, inputs: Tensor, place: BatchPlace | None = None
    ) -> tuple[Tensor, Tensor]:
        """Make mosaics (B / grid², 3, grid S, grid S) of neighbouring images.

        Also the tile of every image as RoI (picture, x1, y1, x2, y2) in
        pixels, (B, 5) float32. ValueError if B is no multiple of grid² or
        images are not square.
        """
        batch, _, height, width = inputs.shape
        tiles = self.grid**2
        if batch % tiles or height != width:
            raise ValueError(
                f'a mosaic of {self.grid} x {self.grid} needs square images '
                f'and batches in multiples of {tiles}, got {batch} images of '
                f'{height} x {width}'
            )
        borders = self.borders(batch // tiles, height, place)
        side = self.grid * height
        pictures = inputs.new_empty(
            batch // tiles, inputs.shape[1], side, side
        )
        rois = []
        for number, image in enumerate(inputs):
            picture, tile = divmod(number, tiles)
            row, col = divmod(tile, self.grid)
            y1, y2 = borders[picture, 0, row : row + 2].tolist()
            x1, x2 = borders[picture, 1, col : col + 2].tolist()
            pictures[picture, :, y1:y2, x1:x2] = F.interpolate(
                image[None],
                (y2 - y1, x2 - x1),
                mode='bilinear',
                align_corners=False,
                antialias=True,
            )[0]
            rois.append([picture, x1, y1, x2, y2])
        places = torch.tensor(rois, dtype=torch.float32)
        return pictures, places.to(inputs.device, non_blocking=True)

    @staticmethod
    def pool(feat: Tensor, rois: Tensor, stride: int) -> Tensor:
        """Average a map (M, C, h, w) over RoIs, as for the VLM score."""
        pooled = roi_align(feat.float(), rois, 7, 1 / stride, 2, True)
        return pooled.mean(dim=(2, 3))


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
    random crop of it, one per image, is resampled to the token grid (RO-ViT,
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
