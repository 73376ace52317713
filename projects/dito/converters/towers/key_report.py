# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Where every weight of a source went, and those that were resampled."""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dito.models.backbones.vit_layers import resize_pos_embed


class KeyReport:
    """Takes weights out of a source, one by one, and remembers it.

    Attributes:
        state: Weights by our names, float32.
        lines: For each of our names, where it is from.
        left_out: For each name of the source that has no place here, why.
        resampled: For each of our names that was resized, from what to what.
    """

    def __init__(self, source: Mapping[str, Tensor]) -> None:
        self._source = dict(source)
        self._used: dict[str, None] = {}
        self.state: dict[str, Tensor] = {}
        self.lines: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.resampled: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._source

    def read(self, name: str) -> Tensor:
        """A weight of the source as float32, used now; else a ValueError."""
        if name not in self._source:
            raise ValueError(
                f'The weights have no {name!r}, which a tower of this kind '
                'must have; give the file that belongs to the model.'
            )
        self._used[name] = None
        return self._source[name].detach().float()

    def take(
        self,
        name: str,
        ours: str,
        change: Callable[[Tensor], Tensor] | None = None,
        how: str = '',
    ) -> None:
        """Take a weight over as ``ours``; ``how`` names the ``change``."""
        value = self.read(name)
        self.put(
            ours,
            value if change is None else change(value),
            f'{name}{f" ({how})" if how else ""}',
        )

    def put(self, ours: str, value: Tensor, origin: str) -> None:
        """Set a weight made of several of the source's, or of none."""
        self.state[ours] = value.contiguous()
        self.lines[ours] = origin

    def leave(self, name: str, why: str) -> None:
        """Leave a weight out, knowingly; nothing if there is none."""
        if name in self._source:
            self._used[name] = None
            self.left_out[name] = why

    def unmatched(self) -> list[str]:
        """Names of the source that were neither taken nor left out."""
        return [name for name in self._source if name not in self._used]

    def check(self) -> None:
        """Refuse a source of which something was not understood."""
        names = self.unmatched()
        if names:
            raise ValueError(
                f'{len(names)} of {len(self._source)} weights of the source '
                f'have no place in a DITOViT or text tower: '
                f'{", ".join(names[:8])}{" ..." if len(names) > 8 else ""}; '
                'the model is of a kind that cannot be converted.'
            )

    def text(self) -> str:
        """One line a weight, and a summary."""
        rows = [
            (
                'resampled' if ours in self.resampled else 'taken',
                ours,
                self._describe(ours),
            )
            for ours in self.state
        ]
        rows += [
            ('left out', name, why) for name, why in self.left_out.items()
        ]
        wide = max((len(name) for _, name, _ in rows), default=0)
        lines = [
            f'{kind:<9}  {name:<{wide}}  {note}' for kind, name, note in rows
        ]
        lines.append(
            f'{len(self.state)} weights taken, {len(self.resampled)} of them '
            f'resampled; {len(self.left_out)} of the source left out.'
        )
        return '\n'.join(lines)

    def _describe(self, ours: str) -> str:
        shape = tuple(self.state[ours].shape)
        change = self.resampled.get(ours)
        return f'<- {self.lines[ours]}  {change or shape}'


METHODS = ('pinv', 'bilinear')


def resample_kernel(kernel: Tensor, size: int, method: str = 'pinv') -> Tensor:
    """Resize the kernel (C, 3, p, p) of a patch embedding, as float32.

    'pinv' (FlexiViT, PI-resize): of all kernels of the new size the one whose
    products with resized patches are nearest to the old kernel's with the
    patches themselves; equal where patches grow. Resizing is linear and the
    same along both axes, so two small matrices do it. 'bilinear': resized like
    a picture, and scaled so that a patch of one colour gives the same.
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

    None keeps the patch; without ``img_size`` the position grid is kept, so
    that with another patch the image size changes. ValueError if a size is not
    positive or the patch does not divide the image.
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
