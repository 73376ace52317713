# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Decode, crop and batch images for contrastive pretraining, in uint8.

The crop is resized by PyTorch's uint8 kernel, which gives Pillow's antialiased
bicubic picture to a rounding error at a fifth of the time. A large JPEG is
decoded by libjpeg at a half, a quarter or an eighth of its size where that
still covers the crop. Normalisation is left to the device
(:class:`ImageTextPreprocessor`), so that a batch travels as uint8.
"""

import math
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import FUNCTIONS
from torch.nn import functional

from .bad_samples import BadSample, blame_sample
from .image_header import (
    image_size,
    jpeg_header,
    jpeg_size,
    looks_complete,
    open_image,
)

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

# A moment's 300 MB for one image; Pillow warns of a bomb at 89 million.
MAX_PIXELS = 100_000_000
_REDUCED_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode_reduced(
    data: bytes,
    size: tuple[int, int] | None,
    factor: int,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode an image, a JPEG at 1 / factor of its size: (h, w, 3) uint8 BGR.

    What comes of unusual images, as open_clip's ``convert('RGB')`` does it
    unless said: grey ones get three equal channels; palettes are resolved; an
    alpha channel is dropped, not blended; CMYK is converted; of 16 bits the
    upper 8 count (Pillow saturates them to white); the EXIF orientation is
    ignored, since captions of web images were mostly made for the stored
    pixels. A JPEG or PNG that breaks off is broken, as it is to Pillow; OpenCV
    alone would grey the rest.

    Where the optional package simplejpeg is installed it decodes JPEGs at full
    size: the same pixels, a tenth faster. ``size`` is that of
    :func:`jpeg_size`, None where ``factor`` (1, 2, 4 or 8) does not apply.
    BadSample if the data cannot be decoded, or is over ``max_pixels``.
    """
    if not data:
        raise BadSample('empty image file')
    if size is None:
        factor = 1
    with blame_sample('image cannot be decoded'):
        _check_pixels(data, size, factor, max_pixels)
        image = None
        if looks_complete(data):
            if size is not None and factor == 1:
                image = _decode_by_simplejpeg(data)
                if image is not None:
                    return image
            flag = _REDUCED_FLAGS[factor] | cv2.IMREAD_IGNORE_ORIENTATION
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        return _decode_strictly(data, factor) if image is None else image


def _decode_by_simplejpeg(data: bytes) -> np.ndarray | None:
    """Decode a plain JPEG; None where it is not, or the package is not."""
    if simplejpeg is None:
        return None
    try:
        return simplejpeg.decode_jpeg(data, 'BGR')
    except ValueError:  # CMYK or damaged
        return None


def _check_pixels(
    data: bytes, size: tuple[int, int] | None, factor: int, max_pixels: int
) -> None:
    """Refuse an image that would take too much memory."""
    full = size or image_size(data)
    if full is None:
        raise BadSample(
            'image cannot be decoded', f'{len(data)} bytes of no known format'
        )
    pixels = full[0] * full[1]
    if pixels <= max_pixels:
        return
    # The coefficients of a progressive JPEG are held at full size.
    if factor > 1 and not jpeg_header(data).progressive:
        pixels //= factor * factor
    if pixels > max_pixels:
        raise BadSample(
            'image too large',
            f'{full[1]} x {full[0]} pixels, the limit is {max_pixels}',
        )


def _decode_strictly(data: bytes, factor: int) -> np.ndarray:
    """Decode by Pillow, which knows more formats and refuses broken files."""
    with open_image(data) as image:
        rgb = np.asarray(image.convert('RGB').reduce(factor))
    return rgb[..., ::-1].copy()


Box = tuple[int, int, int, int]


def random_crop_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """Draw (top, left, height, width) of a crop, as torchvision draws it.

    ``scale`` is the range of the box area over the image's, ``ratio`` that of
    width over height, log-uniform.
    """
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    # Drawn at once: a call of the generator costs more than the rest.
    for u, v, y, x in rng.random((10, 4)).tolist():
        area = height * width * (scale[0] + u * (scale[1] - scale[0]))
        aspect = math.exp(log_low + v * (log_high - log_low))
        w = round(math.sqrt(area * aspect))
        h = round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    # A very long image: the largest centred box within the ratio's range.
    h = min(height, max(1, round(width / ratio[0])))
    w = min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def center_crop_box(height: int, width: int) -> Box:
    """Return the largest centred square as (top, left, height, width)."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


class CropTransform:
    """Encoded image to a square uint8 crop, at random or centred.

    Args:
        size (int): Side of the output in pixels.
        scale (tuple[float, float], optional): Range of the crop's area over
            the image's; None takes the centred square (evaluation).
        ratio (tuple[float, float]): Range of the crop's width over height.
        flip (float): Probability of a horizontal flip. Captions name
            directions and hold written words, hence 0 by default.
        reduce (bool): Whether a large JPEG is decoded at reduced scale.
        max_pixels (int): Largest number of pixels that is decoded.
    """

    def __init__(
        self,
        size: int,
        *,
        scale: tuple[float, float] | None = (0.4, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.0,
        reduce: bool = True,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if size < 1:
            raise ValueError(f'size must be at least 1 pixel, got {size}')
        if scale is not None and not (
            isinstance(scale, (tuple, list))
            and len(scale) == 2
            and 0 < scale[0] <= scale[1] <= 1
        ):
            raise ValueError(
                'scale must be a range within (0, 1], such as (0.4, 1.0), or '
                f'None for the centre, got {scale}'
            )
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f'ratio must be a positive range, got {ratio}')
        if not 0 <= flip <= 1:
            raise ValueError(f'flip is a probability, got {flip}')
        self.size = size
        self.scale = None if scale is None else tuple(scale)
        self.ratio = tuple(ratio)
        self.flip = flip
        self.reduce = reduce
        self.max_pixels = max_pixels

    def __call__(
        self, data: bytes, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """Decode, crop and resize an image to (3, size, size) uint8 RGB.

        ``rng`` is needed for random crops; BadSample if the data cannot be
        decoded.
        """
        size = jpeg_size(data) if self.reduce else None
        factor = 1
        if size is not None:
            # The crop is drawn at full size, so that it does not depend on
            # the scale at which the image happens to be decoded.
            box, factor = self.plan(size, rng)
        image = decode_reduced(data, size, factor, self.max_pixels)
        if size is None:
            box = self._box(image.shape[:2], rng)
        top, left, h, w = (v // factor for v in box)
        planes = _resize_bicubic(
            image[top : top + h, left : left + w], self.size
        )
        planes = planes[::-1]  # BGR to RGB
        if self.flip and rng.random() < self.flip:
            planes = planes[:, :, ::-1]
        return np.ascontiguousarray(planes)

    def _box(
        self, size: tuple[int, int], rng: np.random.Generator | None
    ) -> Box:
        """Choose the crop of an image of (height, width) ``size``."""
        if self.scale is None:
            return center_crop_box(*size)
        return random_crop_box(*size, self.scale, self.ratio, rng)

    def plan(
        self, size: tuple[int, int], rng: np.random.Generator | None
    ) -> tuple[Box, int]:
        """Choose the crop and the reduction of a JPEG.

        The crop is (top, left, height, width) at full size, all multiples of
        the reduction, so that the reduced image is cut at the same places;
        that is 1, 2, 4 or 8, the largest that still covers the output.
        """
        box = self._box(size, rng)
        side = min(box[2], box[3])
        for factor in (8, 4, 2):
            if self.reduce and side >= factor * self.size:
                return tuple(v // factor * factor for v in box), factor
        return box, 1


def _resize_bicubic(image: np.ndarray, size: int) -> np.ndarray:
    """Resize (h, w, 3) uint8 to (3, size, size) as Pillow does."""
    planes = torch.from_numpy(image).permute(2, 0, 1)
    if image.shape[:2] != (size, size):
        planes = functional.interpolate(
            planes[None], (size, size), mode='bicubic', antialias=True
        )[0]
    return planes.numpy()


@FUNCTIONS.register_module()
def image_text_collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack arrays and integers to tensors and keep all else as lists.

    ``inputs`` (3, H, W) uint8 become (B, 3, H, W), ``texts`` and ``keys``
    lists of B strings, integers (B,) int64.
    """
    batch: dict[str, Any] = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        if isinstance(first, np.ndarray):
            batch[name] = torch.from_numpy(np.stack(values))
        elif isinstance(first, (int, np.integer)):
            batch[name] = torch.tensor(values, dtype=torch.int64)
        else:
            batch[name] = values
    return batch
