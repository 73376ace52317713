# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Very large pictures, decoded at reduced size within bounded memory."""

from contextlib import suppress

import cv2
import numpy as np
from PIL import UnidentifiedImageError

from .image_text.image_header import (
    image_size,
    jpeg_header,
    open_image,
    orientation,
)

# Pictures of more pixels are read at reduced size, see reading_plan.
FULL_PIXELS = 50_000_000
# Bytes that a file and what its decoder holds may take.
MOST_BYTES = 1_200_000_000
# Pictures of more pixels are read at reduced size even where they are cut
# into tiles: at 8 bytes a pixel they take the above.
WHOLE_PIXELS = 150_000_000

# Bytes per pixel of decoders, the result included, as measured: OpenCV has
# the picture twice, or as float32 and as bytes. Pillow's JPEG and JPEG 2000
# take theirs per pixel of the reduced picture.
_OPENCV, _FLOATS, _PILLOW, _REDUCED = 8, 16, 7, 16
# Pillow's of an AVIF, and of a TIFF that is made RGB before it is reduced.
_AVIF, _ALPHA_AVIF, _CONVERTED = 10.5, 13, 10.5
# JPEGs are decoded at no less.
_LEAST = 8
_TIFF_HEADS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
# Modes of which Pillow makes RGB as OpenCV does; not those of 16 bits.
_PLAIN_MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr')
_WIDE_MODES = ('LA', 'RGBA', 'CMYK', 'YCbCr')


def reading_plan(
    content: bytes, most: int | None = None
) -> tuple[int, tuple[int, int] | None]:
    """By what a picture is reduced when it is read, and its upright size.

    Up to 50 megapixels, or ``most`` pixels, it is read whole, as evaluations
    read it; larger ones at a half, a quarter, an eighth and so on, at the most
    that is within them. A JPEG and JPEG 2000 are decoded at this size; other
    kinds are reduced after they were decoded, if memory allows. The size is
    height and width, None where the header cannot be read. ValueError if
    decoding would take too much memory.
    """
    size = upright_size(content)
    if size is None:
        return 1, None
    factor = reduction(size, most)
    if reduction(size) > 1:
        needed = len(content) + size[0] * size[1] * _cost(content, factor)
        if needed > MOST_BYTES:
            raise ValueError(
                f'has {size[1]} x {size[0]} pixels, which take '
                f'{needed / 1e9:.1f} GB to decode, more than the '
                f'{MOST_BYTES / 1e9:.1f} GB that a picture may take; save '
                'it as a plain (not progressive) JPEG, which is read at '
                'reduced size, or cut it into tiles'
            )
    return factor, size


def upright_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a picture set upright, by its header alone."""
    size = image_size(content)
    turned = size is not None and orientation(content) in (5, 6, 7, 8)
    return size[::-1] if size is not None and turned else size


def reduction(size: tuple[int, int], most: int | None = None) -> int:
    """The least power of 2 that reduces a size to 50 megapixels or less.

    ``most`` takes the place of the 50.
    """
    factor = 1
    while size[0] * size[1] > (most or FULL_PIXELS) * factor**2:
        factor *= 2
    return factor


def _cost(content: bytes, factor: int) -> float:
    """Bytes per pixel that decoding takes, besides the file."""
    header = jpeg_header(content)
    if header is not None:
        held = 2 * header.coefficients if header.progressive else 0
        # What is read whole is read by OpenCV.
        return held + (
            _OPENCV if factor == 1 else _REDUCED / min(factor, _LEAST) ** 2
        )
    if _is_jpeg2000(content):
        return _REDUCED / factor**2
    if content[:2] in (b'#?', b'PF', b'Pf'):  # HDR, PFM
        return _FLOATS
    if not _is_for_pillow(content):
        return _OPENCV
    try:
        with open_image(content, max_pixels=None) as image:
            mode = image.mode
    except UnidentifiedImageError:
        return _FLOATS  # TIFFs of which OpenCV alone knows
    if content[:4] not in _TIFF_HEADS:
        return _AVIF if mode == 'RGB' else _ALPHA_AVIF
    if mode not in _PLAIN_MODES:
        return _FLOATS
    return _CONVERTED if mode in _WIDE_MODES else _PILLOW


def _is_jpeg2000(content: bytes) -> bool:
    return content[:4] == b'\xff\x4f\xff\x51' or content[4:8] == b'jP  '


def _is_for_pillow(content: bytes) -> bool:
    """Whether Pillow needs less memory: JPEGs, AVIF, TIFF in one strip."""
    return (
        content[:2] == b'\xff\xd8'
        or content[:4] in _TIFF_HEADS
        or content[4:8] == b'ftyp'
        or _is_jpeg2000(content)
    )


def decode_reduced(content: bytes, factor: int) -> np.ndarray:
    """Decode a picture at 1 / factor, a power of 2, of its size.

    (h, w, 3) uint8 BGR, not turned by EXIF; decoders have their own errors.
    """
    image = None
    if _is_for_pillow(content):
        # Pillow has no mode for a TIFF of floats.
        with suppress(UnidentifiedImageError):
            image = _by_pillow(content, factor, _PLAIN_MODES)
    if image is None:
        whole = cv2.imdecode(
            np.frombuffer(content, np.uint8),
            cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
        )
        image = None if whole is None else shrink(whole, factor)
    return _by_pillow(content, factor) if image is None else image


def _by_pillow(
    content: bytes, factor: int, modes: tuple[str, ...] | None = None
) -> np.ndarray | None:
    """Decode by Pillow, 4 bytes a pixel; None for a mode of no ``modes``."""
    with open_image(content, max_pixels=None) as image:
        if modes is not None and image.mode not in modes:
            return None
        if image.format == 'JPEG2000':
            # A number of halvings; this plugin has no other use of the name.
            image.reduce = factor.bit_length() - 1
            image.load()
            factor = 1
        elif image.format in ('JPEG', 'MPO'):
            width = image.width
            image.draft(
                'RGB',
                [max(side // min(factor, _LEAST), 1) for side in image.size],
            )
            factor //= round(width / image.width)
        if image.mode != 'RGB':
            # A palette's numbers have no average.
            image = image.convert('RGB')
        pixels = np.asarray(image if factor == 1 else image.reduce(factor))
    return np.ascontiguousarray(pixels[..., ::-1])


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Reduce (H, W, 3) uint8 by averages of areas, some rows at a time."""
    if factor == 1:
        return image
    height, width = (-(-side // factor) for side in image.shape[:2])
    small = np.empty((height, width, 3), np.uint8)
    step = max(FULL_PIXELS // (8 * factor * image.shape[1]), 1)
    for row in range(0, height, step):
        part = np.ascontiguousarray(
            image[row * factor : (row + step) * factor]
        )
        rows = small[row : row + step]
        rows[:] = cv2.resize(
            part, (width, len(rows)), interpolation=cv2.INTER_AREA
        )
    return small
