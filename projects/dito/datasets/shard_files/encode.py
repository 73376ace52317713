# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Check an image for a shard; shrink or turn it where that is wanted."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from dito.datasets.image_text.bad_samples import blame_sample
from dito.datasets.image_text.image_header import (
    image_size,
    jpeg_size,
    open_image,
)
from dito.datasets.image_text.transforms import MAX_PIXELS, decode_reduced

_EXTENSIONS = dict(JPEG='jpg', PNG='png', WEBP='webp')
_ORIENTATION = 0x0112


class EncodedImage(NamedTuple):
    """An image as it goes into a shard: jpg, png or webp, sizes in pixels."""

    data: bytes
    extension: str
    width: int
    height: int
    original_width: int
    original_height: int


def prepare_image(
    data: bytes, max_side: int | None = None, quality: int = 95
) -> EncodedImage:
    """Check that an image can be decoded, and encode it anew if it must be.

    It must where its shorter side is over ``max_side``, where its EXIF
    orientation is not upright (the loader ignores orientations) and where it
    is of another format than shards hold. Everything else is kept byte for
    byte. BadSample if it cannot be decoded.
    """
    # Decoding is the check; the pixels serve if nothing has to be turned.
    pixels = decode_reduced(data, jpeg_size(data), 1, MAX_PIXELS)[..., ::-1]
    height, width = image_size(data) or pixels.shape[:2]
    kind, orientation = _kind(data)
    shrink = max_side is not None and min(width, height) > max_side
    if kind in _EXTENSIONS and not shrink and orientation in (0, 1):
        return EncodedImage(
            data, _EXTENSIONS[kind], width, height, width, height
        )
    image = _upright(pixels, orientation)
    original = image.size
    if shrink:
        factor = max_side / min(image.size)
        size = [max(1, round(side * factor)) for side in image.size]
        image = image.resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=quality)
    return EncodedImage(buffer.getvalue(), 'jpg', *image.size, *original)


def _kind(data: bytes) -> tuple:
    """Return the format and the EXIF orientation (0 for none)."""
    with blame_sample('image cannot be decoded'):
        with open_image(data) as image:
            return image.format, image.getexif().get(_ORIENTATION, 0)


def _upright(pixels: np.ndarray, orientation: int) -> Image.Image:
    """Turn an image as its EXIF orientation says."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if orientation not in range(2, 9):
        return image
    image.getexif()[_ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)
