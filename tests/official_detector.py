# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The release's detector at the tiny sizes of its golden arrays."""

from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor

from dito.models import Vocabulary
from dito.utils.official import convert_official

CONFIG = Path(__file__).parents[1] / 'configs' / 'dito_vitl_official_lvis.py'
Arrays = Dict[str, np.ndarray]


def tiny_official_config(mask: bool = True) -> ConfigDict:
    """The shipped config of the release, with other sizes only."""
    model = Config.fromfile(CONFIG).model
    model.data_preprocessor.pad_size_divisor = 128
    model.backbone.update(
        arch=dict(embed_dims=32, num_layers=3, num_heads=2),
        img_size=64,
        window=dict(grid=2),
        global_layers=[1, 2],
        shift_size=2)
    model.neck.update(in_channels=32, out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    head = model.roi_head
    head.bbox_roi_extractor.out_channels = 16
    head.vlm_roi_extractor.out_channels = 32
    head.bbox_head.update(
        in_channels=16,
        embed_dims=32,
        conv_out_channels=16,
        fc_out_channels=32)
    head.mask_roi_extractor.out_channels = 16
    head.mask_head.update(in_channels=16, conv_out_channels=16)
    if not mask:
        head.mask_head = head.mask_roi_extractor = None
    model.test_cfg.rpn.update(nms_pre=200, max_per_img=60)
    model.test_cfg.rcnn.max_per_img = 30
    return model


def group(arrays: Arrays, prefix: str) -> Arrays:
    """Arrays below a prefix, without it."""
    return {k[len(prefix):]: v for k, v in arrays.items()
            if k.startswith(prefix)}


def build_official(arrays: Arrays, indicator: bool = False) -> Any:
    """Build the detector and load the golden weights and classes.

    Args:
        arrays (dict): Of detector_end_to_end.npz.
        indicator (bool): Whether base classes are known; the release takes
            all for novel where they are not.
    """
    init_default_scope('mmdet')
    model = MODELS.build(tiny_official_config()).eval()
    model.load_state_dict(convert_official(group(arrays, 'params/')))
    rows = torch.from_numpy(arrays['in/text_features'][0])
    base = arrays['with_indicator/in/base_category_indicator'][0, 1:] > 0
    novel = torch.from_numpy(~base if indicator else np.ones_like(base))
    names = tuple(f'class {i}' for i in range(1, len(rows)))
    model.set_vocabulary(Vocabulary(names, rows[1:], rows[0], novel, ''))
    return model


def images(arrays: Arrays) -> Tensor:
    """Both images, in [0, 1], (2, 3, 128, 128)."""
    return torch.from_numpy(arrays['in/image']).permute(0, 3, 1, 2)


def samples(scale: float = 1.0) -> List[DetDataSample]:
    """Samples of two images whose whole square is valid."""
    size = (128, 128)
    meta = dict(
        img_shape=size,
        batch_input_shape=size,
        ori_shape=(round(128 / scale), ) * 2,
        scale_factor=(scale, scale))
    return [DetDataSample(metainfo=meta) for _ in range(2)]
