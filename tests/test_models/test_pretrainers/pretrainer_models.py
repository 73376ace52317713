# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tiny pretrainers and batches."""

import torch
from mmdet.registry import MODELS, TASK_UTILS

from dito.models.pretrainers import BatchPlace
from dito.models.text import DITOTextEncoder

TEXTS = ['a red cat', 'two blue dogs', 'a green tree', 'an old house']
DIMS = 16


@TASK_UTILS.register_module(force=True)
class WholeImageRegion:
    """One box a level, the whole image: regions of another make.

    Args:
        num_levels (int): Number of pyramid levels.
    """

    def __init__(self, num_levels: int = 4) -> None:
        self.num_levels = num_levels

    def __call__(
        self,
        batch: int,
        image_size: tuple[int, int],
        place: BatchPlace | None = None,
    ) -> list[torch.Tensor]:
        """Return the image's outline, (B, 1, 4) in pixels for each level."""
        height, width = image_size
        box = torch.tensor([0.0, 0.0, width, height])
        return [box.expand(batch, 1, 4)] * self.num_levels


def towers():
    ids = DITOTextEncoder.collect_token_ids(TEXTS + ['a photo of a cat dog'])
    return dict(
        backbone=dict(
            type='DITOViT',
            img_size=32,
            patch_size=8,
            arch=dict(embed_dims=DIMS, num_layers=1, num_heads=2),
        ),
        text_encoder=dict(
            type='DITOTextEncoder',
            embed_dims=DIMS,
            context_length=12,
            arch=dict(width=16, layers=1, heads=2),
            token_ids=ids,
        ),
    )


def clip_cfg(**kwargs):
    return dict(type='CLIPPretrainer', **towers(), **kwargs)


def rep_cfg(num_regions=(6, 4, 3, 2), **kwargs):
    strides = [2, 4, 8, 16]
    cfg = dict(
        type='RegionCentricPretrainer',
        **towers(),
        neck=dict(type='SimpleFPN', in_channels=DIMS, out_channels=8),
        rpn_head=dict(
            type='DITORPNHead',
            in_channels=8,
            feat_channels=8,
            anchor_generator=dict(
                type='AnchorGenerator',
                scales=[8],
                ratios=[1.0],
                strides=strides,
                center_offset=0.5,
            ),
        ),
        roi_head=dict(
            type='DITORoIHead',
            bbox_roi_extractor=dict(
                type='DITORoIExtractor',
                out_channels=8,
                featmap_strides=strides,
                finest_scale=56,
                roi_layer=dict(
                    type='RoIAlign',
                    output_size=7,
                    sampling_ratio=1,
                    aligned=False,
                ),
            ),
            bbox_head=dict(
                type='DITOBBoxHead',
                in_channels=8,
                embed_dims=DIMS,
                conv_out_channels=8,
                num_shared_convs=1,
                fc_out_channels=16,
            ),
        ),
        regions=dict(type='RandomRegions', num_regions=num_regions),
    )
    cfg.update(kwargs)
    return cfg


def pyramid_cfg(**kwargs):
    return dict(
        type='PyramidPretrainer',
        **towers(),
        neck=dict(type='SimpleFPN', in_channels=DIMS, out_channels=8),
        **kwargs,
    )


def build(cfg):
    model = MODELS.build(cfg)
    model.init_weights()
    return model


def make_batch(size=4, image_size=32, start=0, total=None):
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randint(
        0,
        256,
        (size, 3, image_size, image_size),
        dtype=torch.uint8,
        generator=generator,
    )
    return dict(
        inputs=inputs,
        texts=(TEXTS * size)[:size],
        place=BatchPlace(0, 3, start, total or size),
    )
