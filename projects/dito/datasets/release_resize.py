# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Resizing and padding of images as the authors' release does it."""

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

# CLIP's mean colour, RGB in [0, 1].
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


def legacy_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize as the first version of TensorFlow did.

    Pixel ``i`` of the result is sampled at ``i * old / new``: the corners of
    both images are aligned, their centres are not, and an image that shrinks
    is not smoothed, however much.

    Args:
        image (ndarray): Shape (H, W, C), any type.
        size (tuple[int, int]): New height h and width w.

    Returns:
        ndarray: float32, shape (h, w, C).
    """
    image = image.astype(np.float32)
    for axis, new in enumerate(size):
        old = image.shape[axis]
        step = np.float32(old) / np.float32(new)
        places = np.arange(new, dtype=np.float32) * step
        low = np.floor(places)
        fraction = (places - low).reshape(-1, *[1] * (2 - axis))
        low = np.minimum(low.astype(np.int64), old - 1)
        near = image.take(low, axis)
        far = image.take(np.minimum(low + 1, old - 1), axis)
        far -= near
        far *= fraction
        near += far
        image = near
    return image


@TRANSFORMS.register_module()
class DITOReleaseResize(BaseTransform):
    """Scale to fit a square, pad at the bottom and the right (release).

    The padding has CLIP's mean colour, because the release normalises,
    resizes, pads with zeros and then takes the normalisation back. Its parser
    rounds pixels in [0, 1] to bfloat16. ``img_shape`` is the padded size:
    boxes are clipped to the square, not to the valid area.

    Required keys: ``img``. Changed: ``img`` (float32, in [0, 255]),
    ``img_shape``, ``scale_factor`` (width, height), ``keep_ratio``.

    Args:
        size (int): Side of the square. Defaults to 1024.
        pad_color (Sequence[float]): RGB in [0, 1]; the release's demo has
            black. Defaults to CLIP's mean.
        bfloat16 (bool): Whether to round pixels. Defaults to True.
    """

    def __init__(
        self,
        size: int = 1024,
        pad_color: Sequence[float] = CLIP_MEAN,
        bfloat16: bool = True,
    ) -> None:
        if size < 1:
            raise ValueError(f'size must be at least 1 pixel, got {size}.')
        self.size = size
        self.pad_color = tuple(pad_color)
        self.bfloat16 = bfloat16

    def transform(self, results: dict) -> dict:
        """Resize and pad ``results['img']``, (H, W, 3) in BGR."""
        image = results['img']
        height, width = image.shape[:2]
        scale = min(
            np.float32(self.size) / np.float32(side)
            for side in (height, width)
        )
        # np.round and TensorFlow's both round halves to the even number.
        new: tuple[int, int] = tuple(
            max(int(np.round(np.float32(side) * scale)), 1)
            for side in (height, width)
        )
        padded = np.empty((self.size, self.size, 3), np.float32)
        padded[:] = np.float32(self.pad_color[::-1]) * 255
        padded[: new[0], : new[1]] = legacy_bilinear(image, new)
        results['img'] = self._round(padded)
        results['img_shape'] = padded.shape[:2]
        results['scale_factor'] = (new[1] / width, new[0] / height)
        results['keep_ratio'] = True
        return results

    def _round(self, image: np.ndarray) -> np.ndarray:
        """Pixels as bfloat16 in [0, 1] has them, back in [0, 255]."""
        if not self.bfloat16:
            return image
        pixels = torch.from_numpy(image).div_(255)
        return pixels.bfloat16().float().mul_(255).numpy()

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(size={self.size}, pad_color='
            f'{self.pad_color}, bfloat16={self.bfloat16})'
        )
