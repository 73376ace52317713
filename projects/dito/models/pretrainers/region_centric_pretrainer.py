# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Stage 2: region-centric image-text pretraining (paper 3.2)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.utils import ConfigType, OptConfigType
from torch import Tensor

from ..losses.contrastive_ops import normalize
from .image_text_pretrainer import Features
from .pyramid_pretrainer import FrozenTowerPretrainer
from .random_regions import (
    BatchPlace,
    RandomRegions,
    objectness_loss,
    objectness_targets,
    to_rois,
    winner_sizes,
)

# By name: over the boxes of an image, and over the cells of a whole map.
_POOLINGS = dict(
    max=(torch.amax, None),
    mean=(torch.mean, None),
    global_max=(torch.amax, F.adaptive_max_pool2d),
    global_mean=(torch.mean, F.adaptive_avg_pool2d),
)
# What the image-text loss does not reach, besides the towers: boxes and masks
# need annotations, the detector's temperature and projection belong to scores
# that are not computed here.
_NOT_TRAINED = (
    'rpn_head.rpn_reg.',
    'roi_head.bbox_head.fc_reg.',
    'roi_head.bbox_head.temperature_scale',
    'roi_head.mask_head.',
    'roi_head.vlm_proj.',
)


@MODELS.register_module()
class RegionCentricPretrainer(FrozenTowerPretrainer):
    """Train the detector's heads with image-text pairs.

    Both towers are frozen. Random boxes are pooled from every level of the
    pyramid and embedded by the box head; the maximum over an image's boxes,
    element by element, is the image's embedding of the level, which is
    contrasted with the texts. The losses of the levels are summed. The
    proposal head learns, at the centre of each box, the cosine of the box's
    embedding with the image's own text.

    The parts have the detector's names and configs, so that its training
    starts from this stage's checkpoint. What the losses do not reach (box
    regression, masks) is frozen.

    Args:
        backbone (dict): Config of the image tower.
        neck (dict): Config of the pyramid.
        roi_head (dict): Config of the RoI head; its extractor's
            ``roi_layers`` and ``bbox_head.embed`` are used.
        text_encoder (dict): Config of the text tower.
        rpn_head (dict, optional): Config of the proposal head;
            ``forward_objectness`` is used. None trains without.
        regions (dict): Config of the boxes. Defaults to the paper's.
        pooling (str): What becomes the embedding of an image at a level.
            'max' (paper): the maximum over the embeddings of its boxes,
            element by element. The rest are rows of Table 4c. 'mean': their
            mean. 'global_mean' and 'global_max': the whole map, averaged or
            maximised, goes through the box head once; boxes serve the
            proposal head alone then.
        global_size (int, optional): Cells per side that a whole map is pooled
            into before they fill the input of the box head, each repeated
            where they are fewer. Defaults to 1, the paper's "single pixel";
            None for the cells of a box, 7.
        levels (str): 'separate': one image embedding and loss a level
            (paper); 'all': one over the boxes of all levels (Table 4c).
        rpn_loss_weight (float): Weight of the proposal loss against the
            contrastive ones. Defaults to 1, equal (paper).
        objectness_prior (float): Objectness that a logit of 0 stands for in
            this stage, within (0, 1). Cosines with texts are far below the
            0.5 that a new proposal head says: with a prior near their mean
            (0.1) the head learns where they differ instead of their level,
            and detection, whose targets are higher, starts from 0.5. The
            default 0.5 is the paper's and the release's.
        **kwargs: See :class:`ImageTextPretrainer`.
    """

    def __init__(
        self,
        backbone: ConfigType,
        neck: ConfigType,
        roi_head: ConfigType,
        text_encoder: ConfigType,
        rpn_head: OptConfigType = None,
        *,
        regions: ConfigType = dict(type='RandomRegions'),  # noqa: B006
        pooling: str = 'max',
        global_size: int | None = 1,
        levels: str = 'separate',
        rpn_loss_weight: float = 1.0,
        objectness_prior: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, text_encoder, **kwargs)
        if pooling not in _POOLINGS:
            raise ValueError(
                f'pooling is {pooling!r}, expected one of {list(_POOLINGS)}'
            )
        if levels not in ('separate', 'all'):
            raise ValueError(
                f"levels is {levels!r}, expected 'separate' or 'all'"
            )
        if global_size is not None and global_size < 1:
            raise ValueError(
                'global_size must be at least 1 cell, or None, '
                f'got {global_size}'
            )
        if not 0 < objectness_prior < 1:
            raise ValueError(
                'objectness_prior must lie between 0 and 1, got '
                f'{objectness_prior}'
            )
        self.neck = MODELS.build(neck)
        self.roi_head = MODELS.build(roi_head)
        self.rpn_head = None if rpn_head is None else MODELS.build(rpn_head)
        self.regions = TASK_UTILS.build(regions)
        self.pooling = pooling
        self.global_size = global_size
        self.levels = levels
        self.rpn_loss_weight = rpn_loss_weight
        self.objectness_offset = math.log(
            objectness_prior / (1 - objectness_prior)
        )
        self.freeze(_NOT_TRAINED)

    def embed(
        self,
        inputs: Tensor,
        texts: list[str] | Tensor,
        place: BatchPlace | None,
    ) -> tuple[Features, Features]:
        """Embed images by level and texts, see the base class.

        The values that are means over samples are ``loss_rpn``, summed over
        levels, ``rpn_target``, the mean target, and with a maximum over
        boxes ``win_small``, ``win_medium``, ``win_large``: the share of
        elements of the image embedding that boxes of a size give.
        """
        feats = self.pyramid(inputs)
        with torch.no_grad():
            text = self.encode_texts(texts)
        whole = _POOLINGS[self.pooling][1] is not None
        local: Features = {}
        regions = []
        if not whole or self.rpn_head is not None:
            boxes = self._boxes(inputs, place)
            # Only targets come from the boxes where maps are pooled whole.
            with torch.set_grad_enabled(torch.is_grad_enabled() and not whole):
                regions = self._embed_regions(feats, boxes)
        if self.rpn_head is not None:
            local = self._rpn_losses(feats, boxes, regions, text)
        if self.pooling == 'max':
            local.update(self._win_shares(inputs, boxes, regions))
        parts = self._embed_maps(feats) if whole else regions
        return {**self._pool(parts), 'text': text}, local

    def image_embedding(self, inputs: Tensor) -> Tensor:
        """Embed images with boxes that are the same for every image.

        They are the same on every process, too. The unit embeddings of the
        levels are averaged.
        """
        feats = self.pyramid(inputs)
        if _POOLINGS[self.pooling][1] is not None:
            parts = self._embed_maps(feats)
        else:
            place = BatchPlace(0, 0, 0, 1, alone=True)
            boxes = [
                level.expand(len(inputs), -1, -1)
                for level in self._boxes(inputs[:1], place)
            ]
            parts = self._embed_regions(feats, boxes)
        images = [normalize(x) for x in self._pool(parts).values()]
        return torch.stack(images).mean(dim=0)

    def _boxes(self, inputs: Tensor, place: BatchPlace | None) -> list[Tensor]:
        """Draw boxes in pixels, (B, n, 4) for each level."""
        boxes = self.regions(len(inputs), tuple(inputs.shape[-2:]), place)
        layers = self.roi_head.bbox_roi_extractor.roi_layers
        if len(boxes) != len(layers):
            raise ValueError(
                f'regions are given for {len(boxes)} levels, the RoI '
                f'extractor has {len(layers)}; make them agree'
            )
        device = inputs.device
        return [level.to(device, non_blocking=True) for level in boxes]

    def _embed_regions(
        self, feats: tuple[Tensor, ...], boxes: list[Tensor]
    ) -> list[Tensor]:
        """Embed the boxes of each level, (B, n, D) each."""
        layers = self.roi_head.bbox_roi_extractor.roi_layers
        # One large call of the head is faster than one per level.
        with torch.autocast(feats[0].device.type, enabled=False):
            pooled = torch.cat(
                [
                    layer(feat.float(), to_rois(level))
                    for layer, feat, level in zip(
                        layers, feats, boxes, strict=True
                    )
                ]
            )
        embeds = self.roi_head.bbox_head.embed(pooled)
        parts = embeds.split([level[..., 0].numel() for level in boxes])
        return [
            part.unflatten(0, level.shape[:2])
            for part, level in zip(parts, boxes, strict=True)
        ]

    def _embed_maps(self, feats: tuple[Tensor, ...]) -> list[Tensor]:
        """Embed the whole map of each level, (B, 1, D) each."""
        pool = _POOLINGS[self.pooling][1]
        layers = self.roi_head.bbox_roi_extractor.roi_layers
        pooled = torch.cat(
            [
                F.interpolate(
                    pool(feat.float(), self.global_size or layer.output_size),
                    layer.output_size,
                )
                for layer, feat in zip(layers, feats, strict=True)
            ]
        )
        embeds = self.roi_head.bbox_head.embed(pooled)
        return [level[:, None] for level in embeds.chunk(len(feats))]

    def _win_shares(
        self, inputs: Tensor, boxes: list[Tensor], regions: list[Tensor]
    ) -> Features:
        """Find out which sizes of boxes win, as a check of the regions."""
        # Other boxes need not have a range of sizes.
        low, high = (
            self.regions.size
            if isinstance(self.regions, RandomRegions)
            else (0.0, 0.0)
        )
        if low == high:
            return {}
        if self.levels == 'all':
            boxes, regions = [torch.cat(boxes, 1)], [torch.cat(regions, 1)]
        third = (high - low) / 3
        shares = torch.stack(
            [
                winner_sizes(
                    level,
                    place,
                    tuple(inputs.shape[-2:]),
                    (low + third, high - third),
                )
                for level, place in zip(regions, boxes, strict=True)
            ]
        ).mean(dim=0)
        names = ('win_small', 'win_medium', 'win_large')
        return dict(zip(names, shares, strict=True))

    def _pool(self, regions: list[Tensor]) -> dict[str, Tensor]:
        """Pool region embeddings to image embeddings (B, D) by name."""
        pool = _POOLINGS[self.pooling][0]
        if self.levels == 'all':
            return dict(all=pool(torch.cat(regions, dim=1), dim=1))
        return {
            f'p{number}': pool(level, dim=1)
            for number, level in enumerate(regions, start=2)
        }

    def _rpn_losses(
        self,
        feats: tuple[Tensor, ...],
        boxes: list[Tensor],
        regions: list[Tensor],
        text: Tensor,
    ) -> Features:
        """Teach objectness the similarity of each box with its text."""
        maps = self.rpn_head.forward_objectness(feats)
        targets = [objectness_targets(level, text) for level in regions]
        layers = self.roi_head.bbox_roi_extractor.roi_layers
        losses = [
            objectness_loss(
                logits,
                level,
                target,
                layer.spatial_scale,
                self.objectness_offset,
            )
            for logits, level, target, layer in zip(
                maps, boxes, targets, layers, strict=True
            )
        ]
        return dict(
            loss_rpn=self.rpn_loss_weight * torch.stack(losses).sum(),
            rpn_target=torch.cat(targets, dim=1).mean(),
        )
