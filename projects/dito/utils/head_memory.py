# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""How much memory pyramid and heads keep for the backward pass.

The modules of the paper's detector run forward on tensors without data, and
what autograd saves is added up. No formula, no weights, no time.
"""

from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dito.models.backbones.vit_arch import read_arch

from .configs import config_root

_MIB = 2.0**20
_CONFIG = '_base_/models/dito_vitl.py'


def detector_config(arch: str) -> Config:
    """Model of the paper's detector with another tower, without teacher."""
    cfg = Config.fromfile(config_root() / _CONFIG).model
    dims = read_arch(arch).embed_dims
    cfg.neck.in_channels = cfg.roi_head.bbox_head.embed_dims = dims
    cfg.roi_head.vlm_roi_extractor.out_channels = dims
    cfg.backbone.arch = arch
    return cfg


def head_memory(arch: str, batch: int, img_size: int = 1024,
                bf16: bool = False) -> float:
    """What autograd keeps of pyramid, proposal, box and mask head, in MiB.

    On top come, for moments, gradients of the largest map.

    Args:
        arch (str): 'small', 'base', 'large', ...
        batch (int): Images, each with the 512 RoIs of training, 128 of them
            with masks.
        img_size (int): Side of the square images in pixels.
        bf16 (bool): Under bfloat16 autocast.

    Returns:
        float: Activations kept from the forward to the backward pass, but
        for the backbone's map itself.
    """
    cfg = detector_config(arch)
    rois = cfg.train_cfg.rcnn.sampler.num * batch
    masks = int(rois * cfg.train_cfg.rcnn.sampler.pos_fraction)
    side = -(-img_size // cfg.backbone.patch_size)
    with FakeTensorMode():
        neck, rpn, box, mask = (MODELS.build(part) for part in (
            cfg.neck, cfg.rpn_head, cfg.roi_head.bbox_head,
            cfg.roi_head.mask_head))
        kept = _Kept(neck, rpn, box, mask)
        feat = torch.empty(batch, cfg.neck.in_channels, side, side,
                           requires_grad=True)
        kept.ignore(feat)
        width = cfg.neck.out_channels
        with torch.autograd.graph.saved_tensors_hooks(
                kept.add, lambda saved: saved), torch.autocast(
                    'cpu', torch.bfloat16, enabled=bf16):
            rpn(neck((feat, )))
            for head, count, size in ((box.regions, rois, 7),
                                      (mask, masks, 14)):
                head(torch.empty(count, width, size, size,
                                 requires_grad=True))
    return kept.total() / _MIB


class _Kept:
    """Adds up the memory of tensors, each piece of it once.

    Args:
        *modules (Module): Their parameters do not count.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self.sizes: dict[int, int] = {}
        # Held, so that no address is used twice.
        self.held: tuple[Any, ...] = ()
        self.ignored = set()
        for module in modules:
            for parameter in module.parameters():
                self.ignore(parameter)

    def ignore(self, tensor: Tensor) -> None:
        """Do not count this tensor."""
        self.ignored.add(tensor.untyped_storage()._cdata)
        self.held += (tensor.untyped_storage(), )

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd saves."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.ignored:
            self.sizes[storage._cdata] = storage.nbytes()
            self.held += (storage, )
        return tensor

    def total(self) -> int:
        """Bytes of all that was counted."""
        return sum(self.sizes.values())
