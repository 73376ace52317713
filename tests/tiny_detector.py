# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A detector small enough for tests, its vocabulary and its batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from dito.models import DITOTextEncoder, Vocabulary

DIMS = 16
STRIDES = [2, 4, 8, 16]
TEXT_ENCODER = dict(
    type='DITOTextEncoder',
    arch=dict(width=16, layers=1, heads=2),
    embed_dims=DIMS,
    context_length=8,
    token_ids=DITOTextEncoder.collect_token_ids(
        ['a photo of a red green blue cat dog bird background']
    ),
)


def extractor(size: int) -> dict:
    """RoI features of the pyramid."""
    return dict(
        type='DITORoIExtractor',
        roi_layer=dict(
            type='RoIAlign', output_size=size, sampling_ratio=1, aligned=False
        ),
        out_channels=8,
        featmap_strides=STRIDES,
        finest_scale=28,
    )


def assigner(pos: float, neg: float) -> dict:
    """Assigner of the proposal head."""
    return dict(
        type='DITOMaxIoUAssigner',
        pos_iou_thr=pos,
        neg_iou_thr=neg,
        gt_max_assign_all=False,
    )


def rpn_train_cfg() -> ConfigDict:
    """Targets of the proposal head, as in the release."""
    return ConfigDict(
        assigner=assigner(0.3, 0.1),
        bbox_assigner=assigner(0.7, 0.3),
        sampler=dict(
            type='DITORandomSampler',
            num=256,
            pos_fraction=255 / 256,
            add_gt_as_proposals=False,
        ),
    )


def rpn_head(**kwargs: Any) -> dict:
    """Config of a proposal head on 8 channels."""
    cfg = dict(
        type='DITORPNHead',
        in_channels=8,
        feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator',
            scales=[8],
            ratios=[1.0],
            strides=STRIDES,
            center_offset=0.5,
        ),
    )
    return dict(cfg, **kwargs)


def bbox_head(**kwargs: Any) -> dict:
    """Config of a box head on 8 channels."""
    cfg = dict(
        type='DITOBBoxHead',
        in_channels=8,
        embed_dims=DIMS,
        conv_out_channels=8,
        num_shared_convs=1,
        fc_out_channels=16,
    )
    return dict(cfg, **kwargs)


def tiny_config(mask: bool = True, **kwargs: Any) -> ConfigDict:
    """Config of the whole detector.

    Args:
        mask (bool): With a mask head.
        **kwargs: Merged into the config, as MMEngine merges them.
    """
    roi_head = dict(
        type='DITORoIHead',
        bbox_roi_extractor=extractor(7),
        bbox_head=bbox_head(),
        vlm_roi_extractor=dict(
            type='DITORoIExtractor',
            roi_layer=dict(
                type='RoIAlign',
                output_size=1,
                sampling_ratio=14,
                aligned=False,
            ),
            out_channels=DIMS,
            featmap_strides=[8],
        ),
    )
    if mask:
        roi_head.update(
            mask_roi_extractor=extractor(14),
            mask_head=dict(
                type='DITOMaskHead',
                in_channels=8,
                conv_out_channels=8,
                num_convs=1,
            ),
        )
    cfg = dict(
        type='DITO',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[123.0, 117.0, 104.0],
            std=[68.0, 67.0, 70.0],
            pad_mask=True,
            pad_size_divisor=64,
        ),
        backbone=dict(
            type='DITOViT',
            arch=dict(embed_dims=DIMS, num_layers=2, num_heads=2),
            patch_size=8,
            img_size=64,
            window=dict(grid=2),
            global_layers=[1],
            shift='swl',
        ),
        neck=dict(type='SimpleFPN', in_channels=DIMS, out_channels=8),
        rpn_head=rpn_head(),
        roi_head=roi_head,
        train_cfg=dict(
            rpn=rpn_train_cfg(),
            rpn_proposal=dict(
                nms_pre=100,
                nms=dict(type='nms', iou_threshold=0.7),
                max_per_img=50,
                min_bbox_size=0,
            ),
            rcnn=dict(
                assigner=dict(
                    type='DITOMaxIoUAssigner',
                    pos_iou_thr=0.5,
                    neg_iou_thr=0.5,
                    match_low_quality=False,
                ),
                sampler=dict(
                    type='DITORandomSampler', num=32, pos_fraction=0.25
                ),
                mask_size=28,
            ),
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=100, nms=None, max_per_img=50, min_bbox_size=0),
            rcnn=dict(
                score_thr=0.0,
                nms=dict(type='nms', iou_threshold=0.5),
                max_per_img=20,
                mask_thr_binary=0.5,
            ),
        ),
    )
    config = Config(dict(model=cfg))
    config.merge_from_dict(dict(model=kwargs))
    return config.model


def build(**kwargs: Any) -> Any:
    """Build the detector; arguments as in :func:`tiny_config`."""
    # MMEngine builds the preprocessor: it must look into MMDetection.
    init_default_scope('mmdet')
    return MODELS.build(tiny_config(**kwargs))


def pretrained(folder: Path) -> str:
    """File with weights of the tiny detector, for a teacher."""
    torch.manual_seed(7)
    path = folder / 'pretrained.pth'
    torch.save(dict(state_dict=build().state_dict()), path)
    return str(path)


def vocabulary(
    num: int, novel: Sequence[int] = (), seed: int = 0
) -> Vocabulary:
    """Random classes c0, c1, ... with the given ones novel."""
    gen = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(num + 1, DIMS, generator=gen), dim=1)
    flags = torch.zeros(num, dtype=torch.bool)
    flags[list(novel)] = True
    names = tuple(f'c{i}' for i in range(num))
    return Vocabulary(names, rows[:-1], rows[-1], flags, 'test tower')


def batch(
    num_items: Sequence[int] = (2, 0), num_classes: int = 3, mask: bool = True
) -> dict:
    """Raw batch: an image of 64 x 48 pixels and one of 60 x 64."""
    shapes = [(3, 64, 48), (3, 60, 64)][: len(num_items)]
    return demo_mm_inputs(
        len(num_items),
        shapes,
        num_items=list(num_items),
        num_classes=num_classes,
        with_mask=mask,
    )
