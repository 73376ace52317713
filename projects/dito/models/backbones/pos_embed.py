# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Resizing and random cropping of position embeddings.

The random crop is the cropped positional embedding (CPE) of RO-ViT, which the
paper keeps for pretraining: the position embedding of a whole image is
treated as that of a region of a larger image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


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
    if tuple(int(side) for side in pos_embed.shape[1:3]) == tuple(size):
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
