# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The release's detector at the tiny sizes of its golden arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_arrays import Arrays, group, load_golden
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor

from dito.models import Vocabulary
from dito.utils.official import convert_official

CONFIG = Path(__file__).parents[1] / 'configs' / 'dito_vitl_official_lvis.py'


def tower_config(arrays: Arrays, grids: np.ndarray) -> dict:
    """Arguments of a tower of the sizes that a golden file has.

    Args:
        arrays (dict): With ``cfg/``: sizes of patches, map and tower.
        grids (ndarray): Windows per side of each layer; 0 for none.
    """
    (grid,) = set(grids[grids > 0].tolist()) or {1}
    patch = int(arrays['cfg/patch_size'])
    return dict(
        arch=dict(
            embed_dims=int(arrays['cfg/features']),
            num_layers=int(arrays['cfg/num_layers']),
            num_heads=int(arrays['cfg/num_heads']),
        ),
        patch_size=patch,
        img_size=int(arrays['cfg/pretrained_pos_emb_size']) * patch,
        window=dict(grid=grid),
        global_layers=np.flatnonzero(grids == 0).tolist(),
    )


def tiny_official_config(
    mask: bool = True, arrays: Arrays | None = None
) -> ConfigDict:
    """The shipped config of the release, with other sizes only.

    Args:
        mask (bool): Whether there is a mask head. Defaults to True.
        arrays (dict, optional): Of detector_end_to_end.npz, whose sizes are
            taken.
    """
    if arrays is None:
        arrays = load_golden('detector_end_to_end')
    cfg = {k: v.tolist() for k, v in group(arrays, 'cfg/').items()}
    width, filters = cfg['features'], cfg['num_filters']
    model = Config.fromfile(CONFIG).model
    model.data_preprocessor.pad_size_divisor = cfg['image_size']
    model.backbone.update(
        tower_config(arrays, arrays['cfg/window_grid']),
        shift_size=cfg['window_attention_shift_size'],
    )
    frozen = tower_config(arrays, arrays['cfg/window_grid_frozen'])
    model.vlm_backbone.update(
        window=frozen['window'], global_layers=frozen['global_layers']
    )
    model.neck.update(in_channels=width, out_channels=filters)
    model.rpn_head.update(in_channels=filters, feat_channels=filters)
    head = model.roi_head
    head.bbox_roi_extractor.out_channels = filters
    head.vlm_roi_extractor.out_channels = width
    head.bbox_head.update(
        in_channels=filters,
        embed_dims=arrays['in/text_features'].shape[-1],
        conv_out_channels=filters,
        fc_out_channels=cfg['fc_dims'],
    )
    head.mask_roi_extractor.out_channels = filters
    head.mask_head.update(in_channels=filters, conv_out_channels=filters)
    if not mask:
        head.mask_head = head.mask_roi_extractor = None
    model.test_cfg.rpn.update(
        nms_pre=cfg['rpn_pre_nms'], max_per_img=cfg['rpn_post_nms']
    )
    model.test_cfg.rcnn.max_per_img = cfg['detections']
    return model


def build_official(arrays: Arrays, indicator: bool = False) -> Any:
    """Build the detector and load the golden weights and classes.

    Args:
        arrays (dict): Of detector_end_to_end.npz.
        indicator (bool): Whether base classes are known; the release takes
            all for novel where they are not.
    """
    init_default_scope('mmdet')
    model = MODELS.build(tiny_official_config(arrays=arrays)).eval()
    model.load_state_dict(convert_official(group(arrays, 'params/')))
    rows = torch.from_numpy(arrays['in/text_features'][0])
    base = arrays['with_indicator/in/base_category_indicator'][0, 1:] > 0
    novel = torch.from_numpy(~base if indicator else np.ones_like(base))
    names = tuple(f'class {i}' for i in range(1, len(rows)))
    model.set_vocabulary(Vocabulary(names, rows[1:], rows[0], novel, ''))
    return model


def images(arrays: Arrays) -> Tensor:
    """All images, in [0, 1], (B, 3, S, S)."""
    return torch.from_numpy(arrays['in/image']).permute(0, 3, 1, 2)


def samples(arrays: Arrays, scale: float = 1.0) -> list[DetDataSample]:
    """Samples of the images, whose whole square is valid."""
    size = arrays['in/image'].shape[1:3]
    meta = dict(
        img_shape=size,
        batch_input_shape=size,
        ori_shape=tuple(round(side / scale) for side in size),
        scale_factor=(scale, scale),
    )
    return [DetDataSample(metainfo=meta) for _ in arrays['in/image']]
