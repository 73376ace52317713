# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What the first bytes of an encoded image tell, without decoding it.

Pillow's files are opened here and nowhere else in the package.
"""

import io
from typing import FrozenSet, NamedTuple, Optional, Tuple

from PIL import Image

# Start-of-frame markers hold the size; C4, C8 and CC are other segments.
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_PNG = b'\x89PNG\r\n\x1a\n'
# Those that pictures are kept in, decoded within the process. Pillow knows
# more: an EPS starts Ghostscript, which runs the program that an EPS is.
FORMATS = ('AVIF', 'BMP', 'DIB', 'GIF', 'HEIF', 'ICO', 'JPEG', 'JPEG2000',
           'PCX', 'PNG', 'PPM', 'QOI', 'SGI', 'SUN', 'TGA', 'TIFF', 'WEBP')


def open_image(data: bytes) -> Image.Image:
    """Open an image of one of the wanted formats by Pillow.

    Args:
        data (bytes): The encoded image.

    Returns:
        PIL.Image.Image: Its header is read, its pixels are not.

    Raises:
        OSError: If it is of no such format, or damaged; Pillow has further
            errors for damaged headers.
    """
    Image.init()
    # Some are missing where Pillow was built without their libraries.
    known = [name for name in FORMATS if name in Image.OPEN]
    return Image.open(io.BytesIO(data), formats=known)


def picture_suffixes() -> FrozenSet[str]:
    """Suffixes, in lower case, of files that can be decoded."""
    Image.init()
    return frozenset(
        suffix for suffix, name in Image.registered_extensions().items()
        if name in FORMATS and name in Image.OPEN)


def orientation(data: bytes) -> int:
    """EXIF orientation of an image, from 1 (upright) to 8.

    Args:
        data (bytes): The encoded image.

    Returns:
        int: 1 also where none is said or the header is damaged.
    """
    try:
        with open_image(data) as image:
            return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged data makes Pillow raise of any kind
        return 1


class JpegHeader(NamedTuple):
    """Size of a JPEG in pixels, and whether it is a progressive one."""

    height: int
    width: int
    progressive: bool


def jpeg_header(data: bytes) -> Optional[JpegHeader]:
    """Read the header of a JPEG.

    Args:
        data (bytes): The encoded image.

    Returns:
        JpegHeader or None: None where the data is no JPEG or its header is
        damaged.
    """
    if data[:2] != b'\xff\xd8':
        return None
    pos, end = 2, len(data) - 9
    while pos < end:
        if data[pos] != 0xFF:
            return None
        marker = data[pos + 1]
        if marker == 0xFF:  # fill byte
            pos += 1
            continue
        if marker in _SOF_MARKERS:
            height = int.from_bytes(data[pos + 5:pos + 7], 'big')
            width = int.from_bytes(data[pos + 7:pos + 9], 'big')
            # A height of 0 means that it follows after the first scan.
            if not (height and width):
                return None
            return JpegHeader(height, width, marker in _PROGRESSIVE)
        pos += 2 + int.from_bytes(data[pos + 2:pos + 4], 'big')
    return None


def jpeg_size(data: bytes) -> Optional[Tuple[int, int]]:
    """Read (height, width) of a JPEG, None where it is none."""
    header = jpeg_header(data)
    return None if header is None else (header.height, header.width)


def image_size(data: bytes) -> Optional[Tuple[int, int]]:
    """Read (height, width) of an image of any kind, without decoding it.

    Args:
        data (bytes): The encoded image.

    Returns:
        tuple[int, int] or None: None where it is no image. The EXIF
        orientation does not count.
    """
    size = jpeg_size(data)
    if size is None and data[:8] == _PNG and len(data) >= 24:
        size = (int.from_bytes(data[20:24], 'big'),
                int.from_bytes(data[16:20], 'big'))
    if size is None:
        try:
            # Reads the header alone.
            with open_image(data) as image:
                size = image.height, image.width
        except Exception:  # damaged data makes Pillow raise of any kind
            return None
    return size if size[0] > 0 and size[1] > 0 else None


def looks_complete(data: bytes) -> bool:
    """Return whether the end of a JPEG or PNG is where it should be.

    OpenCV decodes what is there of a truncated file and greys the rest. This
    glance spares nearly all images a second, strict decoding.

    Args:
        data (bytes): The encoded image.

    Returns:
        bool: True also for other kinds.
    """
    if data[:2] == b'\xff\xd8':
        return data[-2:] == b'\xff\xd9'
    if data[:8] == _PNG:
        return data[-8:-4] == b'IEND'
    return True
