# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Convolutional patch embedding."""

from typing import Sequence

from mmdet.registry import MODELS
from torch import Tensor, nn

from ..layers import DITOLayerNorm2d


@MODELS.register_module()
class DITOConvStem(nn.Module):
    """Patch embedding by a few small convolutions.

    Not part of the paper: a small tower learns from few images much sooner
    with it than with one linear projection of large patches.

    Args:
        channels (Sequence[int]): Output channels of the 3x3 convolutions of
            stride 2. The stem's stride is 2 to the power of their number.
        in_channels (int): Channels of the image. Defaults to 3.
        embed_dims (int): Channels C of a token.
        norm_eps (float): Epsilon of the channel LayerNorms.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        in_channels: int = 3,
        embed_dims: int,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError(
                'channels is empty: give one number for each halving.')
        self.stride = 2 ** len(channels)
        layers = []
        for width in channels:
            layers += [
                nn.Conv2d(in_channels, width, 3, stride=2, padding=1),
                DITOLayerNorm2d(width, eps=norm_eps),
                nn.GELU(),
            ]
            in_channels = width
        self.layers = nn.Sequential(*layers)
        self.proj = nn.Conv2d(in_channels, embed_dims, 1)

    def forward(self, img: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, C, H / stride, W / stride)."""
        return self.proj(self.layers(img))
