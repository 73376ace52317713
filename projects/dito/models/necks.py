# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Simple feature pyramid from one map."""

import math
from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from .layers import DITOLayerNorm2d

__all__ = ['SimpleFPN']


@MODELS.register_module()
class SimpleFPN(BaseModule):
    """Build P2 to P5 from the last map of a plain vision transformer.

    The map is brought to four scales by transposed convolutions and a
    max-pool, then each scale goes through a 1x1 and a 3x3 convolution with
    LayerNorm. No top-down path, no bias, no activation at the end (release,
    after ViTDet).

    Args:
        in_channels (int): Channels C of the map, a multiple of 4.
        out_channels (int): Channels D of every level. Defaults to 256.
        norm_eps (float): Epsilon of the LayerNorms. Defaults to 1e-6.
        init_cfg (dict, optional): Config of MMEngine's initialisation.

    Raises:
        ValueError: If ``in_channels`` is no multiple of 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        *,
        norm_eps: float = 1e-6,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if in_channels % 4:
            raise ValueError(
                f'in_channels={in_channels} is not a multiple of 4, which '
                'the finest level (a quarter of the channels) needs.'
            )
        self.out_channels = out_channels
        half, quarter = in_channels // 2, in_channels // 4
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(in_channels, half, 2, 2, bias=False),
            DITOLayerNorm2d(half, eps=norm_eps),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2, bias=False),
        )
        self.up2 = nn.ConvTranspose2d(in_channels, half, 2, 2, bias=False)
        # Rounded up, so that an odd map keeps its last row and column.
        self.down2 = nn.MaxPool2d(2, 2, ceil_mode=True)
        norm_cfg = dict(type='DITOLayerNorm2d', eps=norm_eps)
        widths = (quarter, half, in_channels, in_channels)
        self.lateral_convs = nn.ModuleList(
            ConvModule(
                width,
                out_channels,
                1,
                bias=False,
                norm_cfg=norm_cfg,
                act_cfg=None,
            )
            for width in widths
        )
        self.fpn_convs = nn.ModuleList(
            ConvModule(
                out_channels,
                out_channels,
                3,
                padding=1,
                bias=False,
                norm_cfg=norm_cfg,
                act_cfg=None,
            )
            for _ in widths
        )
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Draw all kernels with variance 1 / fan-in (release)."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                fan_in = module.in_channels * math.prod(module.kernel_size)
                nn.init.trunc_normal_(module.weight, std=fan_in**-0.5)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs (Sequence[Tensor]): The one map, has shape (B, C, h, w).

        Returns:
            tuple[Tensor]: P2 to P5, of shapes (B, D, 4h, 4w), (B, D, 2h, 2w),
            (B, D, h, w) and (B, D, h / 2, w / 2) rounded up.

        Raises:
            ValueError: If there is not exactly one map.
        """
        if len(inputs) != 1:
            raise ValueError(
                f'SimpleFPN takes one map, got {len(inputs)}: give it a '
                'plain backbone such as DITOViT.'
            )
        x = inputs[0]
        scales = (self.up4(x), self.up2(x), x, self.down2(x))
        return tuple(
            conv(lateral(scale))
            for scale, lateral, conv in zip(
                scales, self.lateral_convs, self.fpn_convs, strict=True
            )
        )
