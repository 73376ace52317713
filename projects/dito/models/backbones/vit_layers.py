# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Layers of the vision transformer, its sizes and position embeddings.

Tokens come as one (rows, C) matrix with ``groups``, a tuple of
(number of sets, length): first all sets of one length, then those of the
next. Attention stays within a set. Global attention is the one group
(number of images, tokens of an image). With ``groups=None`` every token is a
set of its own.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from ..layers import DITOLayerNorm2d
from ..utils import is_symbolic
from .window_ops import Groups


class VitArch(NamedTuple):
    """Sizes of a vision transformer.

    Attributes:
        embed_dims (int): Channels C of a token.
        num_layers (int): Number of transformer layers.
        num_heads (int): Number of attention heads, a divisor of C.
        mlp_ratio (float): Hidden channels of the MLP over C.
    """

    embed_dims: int
    num_layers: int
    num_heads: int
    mlp_ratio: float = 4


ARCHS: dict[str, VitArch] = dict(
    tiny=VitArch(192, 12, 3),
    small=VitArch(384, 12, 6),
    base=VitArch(768, 12, 12),
    large=VitArch(1024, 24, 16),
    huge=VitArch(1280, 32, 16),
)


def read_arch(arch: str | dict) -> VitArch:
    """Look an architecture up by name, or check a given one.

    Args:
        arch (str | dict): A key of :data:`ARCHS`, or a dict with
            ``embed_dims``, ``num_layers``, ``num_heads`` and optionally
            ``mlp_ratio``.

    Returns:
        VitArch: Its sizes.

    Raises:
        ValueError: If the name is not known, a key is missing or unknown, or
            the heads do not divide the channels.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(
                f'arch={arch!r} is not known: choose from {list(ARCHS)} or '
                'give a dict.'
            )
        return ARCHS[arch]
    needed = {'embed_dims', 'num_layers', 'num_heads'}
    if not needed <= set(arch) <= needed | {'mlp_ratio'}:
        raise ValueError(
            f'arch has the keys {sorted(arch)}, but needs {sorted(needed)} '
            'and may have mlp_ratio.'
        )
    sizes = VitArch(**arch)
    if sizes.embed_dims % sizes.num_heads:
        raise ValueError(
            f'embed_dims={sizes.embed_dims} is not divisible by '
            f'num_heads={sizes.num_heads}.'
        )
    return sizes


class GELUTanh(nn.GELU):
    """GELU by its tanh approximation (the release's ViT)."""

    def __init__(self) -> None:
        super().__init__(approximate='tanh')


class QuickGELU(nn.Module):
    """GELU by a logistic curve, ``x * sigmoid(1.702 x)`` (OpenAI's CLIP)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, type[nn.Module]] = dict(
    gelu=nn.GELU, gelu_tanh=GELUTanh, quick_gelu=QuickGELU
)


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each linearly.

    Args:
        in_channels (int): Channels of the image.
        embed_dims (int): Channels C of a token.
        patch_size (int): Side of a patch in pixels.
        bias (bool): Whether the projection has a bias. Defaults to True.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            in_channels, embed_dims, patch_size, patch_size, bias=bias
        )

    def forward(self, img: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, C, H / patch, W / patch).

        Patches do not overlap, so the convolution is one matrix product over
        the patches' pixels (faster, and channels come out last in memory).
        """
        down, right = self.proj.kernel_size
        # (B, 3, h, down, w, right) -> (B, h, w, 3 * down * right)
        pixels = img.unflatten(3, (-1, right)).unflatten(2, (-1, down))
        pixels = pixels.permute(0, 2, 4, 1, 3, 5).flatten(3)
        tokens = F.linear(pixels, self.proj.weight.flatten(1), self.proj.bias)
        return tokens.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Multi-head self-attention within sets of tokens.

    Args:
        embed_dims (int): Channels C of a token.
        num_heads (int): Number of heads, a divisor of C.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(
        self, x: Tensor, groups: Groups | None, mask: Tensor | None = None
    ) -> Tensor:
        """Let the tokens of each set attend to one another.

        Args:
            x (Tensor): Has shape (rows, C).
            groups (tuple[tuple[int, int]], optional): (number of sets n,
                length L) of consecutive stretches of ``n * L`` rows. None
                for sets of one token, whose attention is all on itself.
            mask (Tensor, optional): Which tokens of a set attend to which,
                bool, has shape (n, 1, L, L), for a single group. None: all
                to all.

        Returns:
            Tensor: Has shape (rows, C).
        """
        if groups is None:
            start = 2 * x.shape[-1]
            return self.proj(
                F.linear(x, self.qkv.weight[start:], self.qkv.bias[start:])
            )
        parts = [self.qkv(x)]
        if len(groups) > 1:
            parts = parts[0].split([n * length for n, length in groups])
        outs = []
        for part, (n, length) in zip(parts, groups, strict=True):
            # (n * L, 3C) -> three times (n, heads, L, C / heads)
            q, k, v = part.view(n, length, 3, self.num_heads, -1).permute(
                2, 0, 3, 1, 4
            )
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            outs.append(out.transpose(1, 2).reshape(n * length, -1))
        return self.proj(outs[0] if len(outs) == 1 else torch.cat(outs))


class MLP(nn.Module):
    """Two linear layers with an activation between.

    Args:
        embed_dims (int): Channels of a token.
        hidden_dims (int): Channels between the layers.
        act (str): A key of :data:`ACTIVATIONS`.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, act: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.act = ACTIVATIONS[act]()
        self.fc2 = nn.Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map (rows, C) to (rows, C)."""
        return self.fc2(self.act(self.fc1(x)))


class LayerScale(nn.Module):
    """A learnt factor for each channel of a branch.

    Args:
        embed_dims (int): Channels C.
        init (float): Start of all factors.
    """

    def __init__(self, embed_dims: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dims,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (rows, C)."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer layer.

    Args:
        embed_dims (int): Channels C of a token.
        num_heads (int): Number of attention heads.
        mlp_ratio (float): Hidden channels of the MLP over C.
        act (str): Activation of the MLP.
        norm_eps (float): Epsilon of both LayerNorms.
        layer_scale (float, optional): Start of the factors on both branches.
            None for none.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float,
        act: str,
        norm_eps: float,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.attn = Attention(embed_dims, num_heads)
        self.norm2 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.mlp = MLP(embed_dims, int(embed_dims * mlp_ratio), act)
        self.ls1 = self.ls2 = nn.Identity()
        if layer_scale is not None:
            self.ls1 = LayerScale(embed_dims, layer_scale)
            self.ls2 = LayerScale(embed_dims, layer_scale)

    def forward(
        self, x: Tensor, groups: Groups | None, mask: Tensor | None = None
    ) -> Tensor:
        """Map (rows, C) to (rows, C); see :class:`Attention`."""
        x = x + self.ls1(self.attn(self.norm1(x), groups, mask))
        return x + self.ls2(self.mlp(self.norm2(x)))


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
                'channels is empty: give one number for each halving.'
            )
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


def resize_pos_embed(pos_embed: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a position embedding to a token map.

    Bilinear with half-pixel centres, low-pass filtered along axes that
    shrink, always in float32 (as the release).

    Args:
        pos_embed (Tensor): Has shape (1, gh, gw, C).
        size (tuple[int, int]): Height h and width w of the token map.

    Returns:
        Tensor: float32, has shape (1, h, w, C).
    """
    pos_embed = pos_embed.float()
    if not is_symbolic(*size) and tuple(
        int(side) for side in pos_embed.shape[1:3]
    ) == tuple(size):
        return pos_embed
    resized = F.interpolate(
        pos_embed.permute(0, 3, 1, 2),
        size=tuple(size),
        mode='bilinear',
        align_corners=False,
        antialias=True,
    )
    return resized.permute(0, 2, 3, 1)


def crop_pos_embed(
    pos_embed: Tensor, boxes: Tensor, up_size: int, out_size: int
) -> Tensor:
    """Upsample a position embedding and cut regions out of it.

    Each region is sampled once, bilinearly, at the centre of each of its
    ``out_size`` x ``out_size`` cells; cell k of the upsampled grid lies at
    coordinate k (no half-pixel shift) and coordinates beyond the last cell
    take its value, as in the release. Upsampling and sampling are both linear
    along each axis, so they are multiplied into one matrix an axis and the
    upsampled grid is never made.

    Args:
        pos_embed (Tensor): Has shape (1, gh, gw, C).
        boxes (Tensor): Regions (y1, x1, y2, x2) in cells of the upsampled
            grid, has shape (B, 4).
        up_size (int): Side of the upsampled grid.
        out_size (int): Side of the result.

    Returns:
        Tensor: float32, has shape (B, out_size, out_size, C).
    """
    pos_embed, boxes = pos_embed.float(), boxes.float()
    rows = _axis_matrix(
        boxes[:, 0], boxes[:, 2], pos_embed.shape[1], up_size, out_size
    )
    columns = _axis_matrix(
        boxes[:, 1], boxes[:, 3], pos_embed.shape[2], up_size, out_size
    )
    with torch.autocast(pos_embed.device.type, enabled=False):
        return torch.einsum('byg,gkc,bxk->byxc', rows, pos_embed[0], columns)


def _axis_matrix(
    start: Tensor, end: Tensor, grid: int, up_size: int, out_size: int
) -> Tensor:
    """Weights (B, out_size, grid) of a cropped axis over the original one."""
    steps = torch.arange(out_size, device=start.device) + 0.5
    places = start[:, None] + steps * (end - start)[:, None] / out_size
    low = places.floor()
    fraction = (places - low)[..., None]
    low = low.long()
    # Row k: how cell k of the upsampled axis mixes the original cells.
    eye = torch.eye(grid, device=start.device)
    upsample = resize_pos_embed(eye[None, :, None], (up_size, 1))[0, :, 0]
    lower = upsample[low.clamp(0, up_size - 1)]
    upper = upsample[(low + 1).clamp(0, up_size - 1)]
    return lower * (1 - fraction) + upper * fraction


def random_crop_boxes(
    batch: int,
    up_size: int,
    scale: tuple[float, float] = (0.1, 1.0),
    ratio: tuple[float, float] = (0.5, 2.0),
    generator: torch.Generator | None = None,
    attempts: int = 10,
) -> Tensor:
    """Draw regions as the usual random resized crop does.

    Area uniform, aspect log-uniform, place uniform. Of ``attempts`` draws the
    first that fits is taken; where none fits, the whole grid.

    Args:
        batch (int): Number of regions B.
        up_size (int): Side of the grid, in cells.
        scale (tuple[float, float]): Range of the area, as a share of the
            grid's. Defaults to (0.1, 1), as in the release.
        ratio (tuple[float, float]): Range of width over height.
        generator (torch.Generator, optional): Source of randomness, and the
            device of the result. Defaults to torch's global CPU one.
        attempts (int): Draws per region. Defaults to 10.

    Returns:
        Tensor: Boxes (y1, x1, y2, x2) in cells, has shape (B, 4).
    """
    device = generator.device if generator is not None else 'cpu'
    area, aspect, down, right = torch.rand(
        4, batch, attempts, generator=generator, device=device
    )
    area = (scale[0] + (scale[1] - scale[0]) * area) * up_size**2
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * aspect)
    height, width = (area / aspect).sqrt(), (area * aspect).sqrt()
    fits = (height <= up_size) & (width <= up_size)
    # argmax finds the first True.
    first = fits.int().argmax(dim=1, keepdim=True)
    y1, x1 = down * (up_size - height), right * (up_size - width)
    boxes = torch.stack([y1, x1, y1 + height, x1 + width], dim=-1)
    boxes = boxes.gather(1, first[..., None].expand(-1, -1, 4))[:, 0]
    whole = boxes.new_tensor([0, 0, up_size, up_size])
    return torch.where(fits.any(dim=1, keepdim=True), boxes, whole)
