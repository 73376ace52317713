# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Decode images of web data: fast where they are sound, strict elsewhere.

What comes of unusual images, as open_clip's ``convert('RGB')`` does it unless
said: grey ones get three equal channels; palettes are resolved; an alpha
channel is dropped, not blended; CMYK is converted; of 16 bits the upper 8
count (Pillow saturates them to white); the EXIF orientation is ignored, since
captions of web images were mostly made for the stored pixels. A JPEG or PNG
that breaks off is broken, as it is to Pillow; OpenCV alone would grey the
rest.

Where the optional package simplejpeg is installed it decodes JPEGs at full
size: the same pixels, a tenth faster.
"""

import cv2
import numpy as np

from .bad_samples import BadSample, blame_sample
from .image_header import image_size, jpeg_header, looks_complete, open_image

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
    """Decode an image, a JPEG at 1 / factor of its size.

    Args:
        data (bytes): The encoded image.
        size (tuple[int, int], optional): Size from :func:`jpeg_size`; None
            means not a JPEG, for which ``factor`` does not apply.
        factor (int): 1, 2, 4 or 8.
        max_pixels (int): Largest number of pixels to decode.

    Returns:
        np.ndarray: (h, w, 3) uint8, BGR.

    Raises:
        BadSample: If the data cannot be decoded, or is too large.
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
