# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Layers shared by the neck and the heads."""

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn


# In MMEngine's root registry, so that mmcv finds it under any default scope.
@MODELS.register_module()
class DITOLayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of an (N, C, H, W) map.

    The result keeps the channels last in memory: a chain of norms and
    convolutions then needs one change of layout at its start and no more.
    As ``norm_cfg`` write ``dict(type='DITOLayerNorm2d', eps=1e-6)``: mmcv
    fills in its own 1e-5 where a ``norm_cfg`` names no ``eps``.

    Args:
        num_channels (int): Number of channels C.
        eps (float): Added to the variance. Defaults to 1e-6, as in the
            release (ViT, pyramid and heads alike).
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W) over C; channels are last in memory."""
        x = F.layer_norm(
            x.permute(0, 2, 3, 1),
            self.normalized_shape,
            self.weight,
            self.bias,
            self.eps,
        )
        return x.permute(0, 3, 1, 2)


class DITONormedConv2d(nn.Conv2d):
    """Convolution of unit channels by filters of unit channels.

    MMDetection's ``NormedConv2d``, which asks in every call what PyTorch it
    runs on and so cannot be compiled. ``temperature`` is a factor on the
    input, ``eps`` is added to both lengths; for the rest see
    :class:`torch.nn.Conv2d`.
    """

    def __init__(
        self,
        *args,
        temperature: float = 20.0,
        eps: float = 1e-6,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.temperature, self.eps = temperature, eps

    def forward(self, x: Tensor) -> Tensor:
        """Convolve maps (N, C, H, W)."""
        weight = self.weight / (
            self.weight.norm(dim=1, keepdim=True) + self.eps
        )
        x = x / (x.norm(dim=1, keepdim=True) + self.eps) * self.temperature
        return self._conv_forward(x, weight, self.bias)
