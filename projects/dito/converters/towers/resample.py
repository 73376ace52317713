# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Other patch sizes and position grids for a pretrained tower."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dito.models.backbones.pos_embed import resize_pos_embed

METHODS = ('pinv', 'bilinear')


def resample_kernel(kernel: Tensor, size: int, method: str = 'pinv') -> Tensor:
    """Resize the kernel of a patch embedding.

    'pinv' (FlexiViT, PI-resize): of all kernels of the new size the one whose
    products with resized patches are nearest to the old kernel's with the
    patches themselves; equal where patches grow. Resizing is linear and the
    same along both axes, so two small matrices do it. 'bilinear': resized
    like a picture, and scaled so that a patch of one colour gives the same.

    Args:
        kernel (Tensor): Has shape (C, 3, p, p).
        size (int): New side of a patch in pixels.
        method (str): 'pinv' or 'bilinear'.

    Returns:
        Tensor: float32, has shape (C, 3, size, size).

    Raises:
        ValueError: If the method is not known.
    """
    old = kernel.shape[-1]
    if method not in METHODS:
        raise ValueError(
            f'method={method!r} is not known: choose from {METHODS}.'
        )
    if method == 'bilinear':
        resized = F.interpolate(
            kernel.float(),
            size=(size, size),
            mode='bilinear',
            align_corners=False,
            antialias=True,
        )
        return resized * (old / size) ** 2
    # Row k: how pixel k of the resized axis mixes the original ones.
    eye = torch.eye(old, dtype=torch.float64)[None, None]
    resize = F.interpolate(
        eye,
        size=(size, old),
        mode='bicubic',
        align_corners=False,
        antialias=True,
    )[0, 0]
    inverse = torch.linalg.pinv(resize)
    return (inverse.T @ kernel.double() @ inverse).float()


def resample_tower(
    tower: 'ConvertedTower',  # noqa: F821
    patch_size: int | None = None,
    img_size: int | None = None,
    method: str = 'pinv',
) -> None:
    """Give a converted tower another patch or image size, in place.

    Args:
        tower (ConvertedTower): State, config and report are changed.
        patch_size (int, optional): Side of a patch. None keeps it.
        img_size (int, optional): Side of the image that the position grid is
            for. None keeps the grid: with another patch size the image size
            changes with it.
        method (str): See :func:`resample_kernel`.

    Raises:
        ValueError: If a size is not positive or the patch does not divide
            the image.
    """
    backbone = tower.backbone
    old_patch, old_size = backbone['patch_size'], backbone['img_size']
    patch = old_patch if patch_size is None else patch_size
    if min(patch, 1 if img_size is None else img_size) < 1:
        raise ValueError(
            f'Patch and image sizes must be at least 1, got {patch} and '
            f'{img_size}.'
        )
    size = old_size // old_patch * patch if img_size is None else img_size
    if size % patch:
        raise ValueError(
            f'The image size {size} is no multiple of the patch size '
            f'{patch}: give --img-size {size // patch * patch} or another '
            'multiple.'
        )
    report, prefix = tower.report, 'backbone.'
    if patch != old_patch:
        key = f'{prefix}patch_embed.proj.weight'
        report.state[key] = resample_kernel(report.state[key], patch, method)
        report.resampled[key] = (
            f'{old_patch} x {old_patch} -> {patch} x {patch} pixels, {method}'
        )
    key = f'{prefix}pos_embed'
    grid, new = math.isqrt(report.state[key].shape[1]), size // patch
    if grid != new:
        square = report.state[key].unflatten(1, (grid, grid))
        report.state[key] = (
            resize_pos_embed(square, (new, new)).flatten(1, 2).contiguous()
        )
        report.resampled[key] = f'{grid} x {grid} -> {new} x {new}, bilinear'
    backbone.update(patch_size=patch, img_size=size)
