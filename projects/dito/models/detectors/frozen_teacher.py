# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The frozen pretrained backbone that teaches the finetuned one."""

from typing import Any, Callable, Dict, Optional

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from mmengine.logging import print_log
from torch import Tensor, nn

from dito.utils.checkpoint import load_state_dict_file


def read_backbone(checkpoint: str, prefix: str) -> Dict[str, Tensor]:
    """Read the weights of a pretrained backbone.

    Args:
        checkpoint (str): File of the pretraining.
        prefix (str): Prefix of the backbone's keys in it.

    Returns:
        dict[str, Tensor]: Weights, without the prefix.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it has no such keys.
    """
    state = {
        key[len(prefix):]: value
        for key, value in load_state_dict_file(checkpoint).items()
        if key.startswith(prefix)
    }
    if not state:
        raise ValueError(
            f'The checkpoint {checkpoint} of the frozen backbone has no key '
            f'that starts with {prefix!r}; give the checkpoint of the '
            'pretraining, or the prefix of its backbone.')
    return state


class FrozenTeacher:
    """Frozen copy of the pretrained backbone, for distillation (paper 3.4).

    It is not a :class:`torch.nn.Module`, so that neither state dict,
    optimizer, ``train()`` nor DistributedDataParallel of the detector see
    it. Its weights are read when training starts; inference needs neither
    its file nor its memory.

    Args:
        backbone (dict): Config of the backbone.
        checkpoint (str): File with the pretrained weights.
        prefix (str): Prefix of the backbone's keys in it. Defaults to
            'backbone.'.
    """

    def __init__(self,
                 backbone: ConfigType,
                 checkpoint: str,
                 prefix: str = 'backbone.') -> None:
        self.cfg = backbone
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.backbone: Optional[nn.Module] = None

    def __deepcopy__(self, memo: dict) -> 'FrozenTeacher':
        """Copies of a detector (EMA) share the teacher: it never changes."""
        return self

    def build(self, device: torch.device) -> None:
        """Build the backbone and load its weights, unless already done.

        Args:
            device (torch.device): Where the backbone is wanted.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ValueError: If it does not hold exactly this backbone.
        """
        if self.backbone is not None:
            return
        state = read_backbone(self.checkpoint, self.prefix)
        backbone = MODELS.build(self.cfg)
        try:
            backbone.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f'The teacher checkpoint {self.checkpoint} does not fit the '
                f'backbone of the detector: {error}') from error
        backbone.requires_grad_(False)
        self.backbone = backbone.eval().to(device)
        print_log(
            f'Frozen teacher loaded from {self.checkpoint}.',
            logger='current')

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow ``.to()`` and the like of the detector."""
        if self.backbone is not None:
            self.backbone._apply(fn)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Any:
        """Final map of the frozen backbone.

        Args:
            inputs (Tensor): The student's input images, (B, 3, H, W).

        Returns:
            Tensor: Shape (B, D, h, w), without gradient.
        """
        self.build(inputs.device)
        return self.backbone(inputs)[-1]

    @property
    def embed_regions(self) -> Optional[Callable[[Tensor], Tensor]]:
        """How the frozen backbone embeds RoI features; None: their mean."""
        return getattr(self.backbone, 'embed_regions', None)
