# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A second, frozen backbone that gives a detector its VLM score."""

from typing import Dict, MutableMapping, Optional

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, OptConfigType
from torch import Tensor, nn

from .frozen_teacher import read_backbone


class VLMBackboneMixin:
    """Keeps the pretrained backbone beside the trained one (release).

    The detector's own backbone gives boxes and the score ``p``; the frozen
    one, run at inference only, gives the map of the score ``z``. It is part
    of the model: its weights are in the state dict under ``vlm_backbone.``,
    it is always in evaluation mode and takes no gradient. A checkpoint that
    has none of these keys can be completed from a second file, the
    pretrained one, see :meth:`build_vlm_backbone`.
    """

    vlm_backbone: Optional[nn.Module]
    _vlm_file: Optional[Dict[str, str]]

    def build_vlm_backbone(self, backbone: ConfigType,
                           cfg: OptConfigType) -> None:
        """Build the frozen backbone.

        Args:
            backbone (dict): Config of the trained backbone.
            cfg (dict, optional): Arguments in which the frozen one differs;
                nothing is reset by itself, the shift neither. Besides these,
                ``checkpoint`` is a file of its weights, for trainings and
                for checkpoints that lack them, not looked at where a
                checkpoint has them; ``prefix`` is that of the backbone's
                keys in it, 'backbone.' by default. None: no frozen backbone.
        """
        self.vlm_backbone = self._vlm_file = None
        if cfg is None:
            return
        cfg = dict(cfg)
        source = dict(
            checkpoint=cfg.pop('checkpoint', None),
            prefix=cfg.pop('prefix', 'backbone.'))
        if source['checkpoint'] is not None:
            self._vlm_file = source
        self.vlm_backbone = MODELS.build({**backbone, **cfg})
        self.vlm_backbone.requires_grad_(False).eval()
        self._register_load_state_dict_pre_hook(
            lambda state, prefix, *_: self.adapt_state_dict(state, prefix))

    def adapt_state_dict(self, state: MutableMapping[str, Tensor],
                         prefix: str = '') -> None:
        """Complete weights that lack the frozen backbone, in place.

        Args:
            state (dict): Weights about to be loaded.
            prefix (str): Of the detector in them. Defaults to ''.

        Raises:
            FileNotFoundError: If the file of the frozen weights is missing.
            ValueError: If it does not hold a backbone.
        """
        start = f'{prefix}vlm_backbone.'
        if self._vlm_file is None or any(k.startswith(start) for k in state):
            return
        for key, value in read_backbone(**self._vlm_file).items():
            state[start + key] = value

    def init_weights(self) -> None:
        """Initialise for training; reads the frozen weights' file."""
        super().init_weights()
        if self._vlm_file is not None:
            try:
                self.vlm_backbone.load_state_dict(
                    read_backbone(**self._vlm_file))
            except RuntimeError as error:
                raise ValueError(
                    f'The file of vlm_backbone '
                    f'{self._vlm_file["checkpoint"]} does not fit it: '
                    f'{error}') from error

    def train(self, mode: bool = True) -> 'VLMBackboneMixin':
        """Set the mode; the frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.vlm_backbone is not None:
            self.vlm_backbone.eval()
        return self

    @torch.no_grad()
    def vlm_map(self, batch_inputs: Tensor, feat: Tensor) -> Tensor:
        """Map that the VLM score is taken from.

        Args:
            batch_inputs (Tensor): Images, shape (B, 3, H, W).
            feat (Tensor): Final map of the trained backbone, (B, D, h, w).

        Returns:
            Tensor: That of the frozen one if there is one, else ``feat``.
        """
        if self.vlm_backbone is None:
            return feat
        return self.vlm_backbone(batch_inputs)[-1]
