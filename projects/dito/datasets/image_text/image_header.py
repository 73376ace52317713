# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What the first bytes of an encoded image tell, without decoding it.

Pillow's files are opened here and nowhere else in the package.
"""

import io
import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

# Start-of-frame markers hold the size; C4, C8 and CC are other segments.
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_PNG = b'\x89PNG\r\n\x1a\n'
_TEXT_HEADERS = (
    rb'#\?(RADIANCE|RGBE).*?\n-Y (?P<height>\d+) \+X (?P<width>\d+)\n',
    rb'P[Ff]\s+(?P<width>\d+)\s+(?P<height>\d+)\s',
    rb'P7\s(?=.*?WIDTH (?P<width>\d+))(?=.*?HEIGHT (?P<height>\d+))',
)
# Those that pictures are kept in, decoded within the process. Pillow knows
# more: an EPS starts Ghostscript, which runs the program that an EPS is.
FORMATS = tuple(
    'AVIF BMP DIB GIF HEIF ICO JPEG JPEG2000 PCX PNG PPM QOI SGI SUN TGA TIFF '
    'WEBP'.split()
)
# Pillow's own limit, of which its opener warns from half on.
PILLOW_PIXELS = 178_956_970


def open_image(
    data: bytes, max_pixels: int | None = PILLOW_PIXELS
) -> Image.Image:
    """Open an image of one of the wanted formats by Pillow, header alone.

    Of more than ``max_pixels`` it is refused; None, where pixels are not read
    or at reduced size: none is. OSError if it is of no such format, too large,
    or damaged; Pillow has further errors for damaged headers.
    """
    Image.init()
    stream = io.BytesIO(data)
    for name in FORMATS:
        # Some are missing where Pillow was built without their libraries.
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None:
            continue
        stream.seek(0)
        try:
            wanted = accept(data[:16]) if accept else True
            # A text says what is missing to read it.
            if isinstance(wanted, str) or not wanted:
                continue
            image = factory(stream, '')
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # as Pillow does: none of this format after all
        if max_pixels and image.width * image.height > max_pixels:
            raise OSError(
                f'{image.width} x {image.height} pixels, more than '
                f'{max_pixels:,}'
            )
        return image
    raise UnidentifiedImageError('no picture of a known format')


def picture_suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of files that can be decoded."""
    Image.init()
    return frozenset(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in FORMATS and name in Image.OPEN
    )


def orientation(data: bytes) -> int:
    """EXIF orientation, from 1 (upright, or not said) to 8."""
    try:
        with open_image(data, max_pixels=None) as image:
            return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged data makes Pillow raise of any kind
        return 1


class JpegHeader(NamedTuple):
    """What the header of a JPEG says.

    ``progressive``: it comes in several scans, so that it is held at full size
    while it is decoded. ``coefficients``: of all its components, per pixel.
    """

    height: int
    width: int
    progressive: bool
    coefficients: float


def jpeg_header(data: bytes) -> JpegHeader | None:
    """Header of a JPEG; None where it is none or the header is damaged."""
    if data[:2] != b'\xff\xd8':
        return None
    pos, end = 2, len(data) - 9
    header = None
    while pos < end:
        if data[pos] != 0xFF:
            return header
        marker = data[pos + 1]
        if marker == 0xFF:  # fill byte
            pos += 1
            continue
        if marker in _SOF_MARKERS:
            height = int.from_bytes(data[pos + 5 : pos + 7], 'big')
            width = int.from_bytes(data[pos + 7 : pos + 9], 'big')
            # A height of 0 means that it follows after the first scan.
            if not (height and width):
                return None
            sides = [
                data[i]
                for i in range(
                    pos + 11, min(pos + 10 + 3 * data[pos + 9], len(data)), 3
                )
            ]
            header = JpegHeader(
                height, width, marker in _PROGRESSIVE, _density(sides)
            )
            components = len(sides)
        elif marker == 0xDA and header is not None:
            scans = data[pos + 4] < components
            return header._replace(progressive=header.progressive or scans)
        pos += 2 + int.from_bytes(data[pos + 2 : pos + 4], 'big')
    return header


def _density(sides: Sequence[int]) -> float:
    """Coefficients per pixel of components, by their sampling bytes."""
    sizes = [(side >> 4) * (side & 15) for side in sides]
    largest = max((side >> 4 for side in sides), default=0) * max(
        (side & 15 for side in sides), default=0
    )
    return sum(sizes) / largest if largest else float(len(sides))


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Read (height, width) of a JPEG, None where it is none."""
    header = jpeg_header(data)
    return None if header is None else (header.height, header.width)


def image_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of an image, neither decoded nor turned by EXIF."""
    size = jpeg_size(data)
    if size is None and data[:8] == _PNG and len(data) >= 24:
        size = (
            int.from_bytes(data[20:24], 'big'),
            int.from_bytes(data[16:20], 'big'),
        )
    if size is None:
        try:
            # Reads the header alone.
            with open_image(data, max_pixels=None) as image:
                size = image.height, image.width
        except Exception:  # damaged data makes Pillow raise of any kind
            size = _tiff_size(data) or _text_header_size(data)
    if size is None:
        return None
    return size if size[0] > 0 and size[1] > 0 else None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a TIFF whose pixels Pillow has no mode for."""
    if data[:4] not in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
        return None
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(
            data[: 16 if b'+' in data[:4] else 8]
        )
        stream = io.BytesIO(data)
        stream.seek(tags.next)
        tags.load(stream)
        return int(tags[257]), int(tags[256])
    except Exception:  # damaged data makes Pillow raise of any kind
        return None


def _text_header_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of kinds that OpenCV alone knows: HDR, PFM, PAM."""
    start = data[:4096]
    for pattern in _TEXT_HEADERS:
        found = re.match(pattern, start, re.DOTALL)
        if found:
            return int(found['height']), int(found['width'])
    return None


def looks_complete(data: bytes) -> bool:
    """Whether the end of a JPEG or PNG is where it should be.

    OpenCV decodes what is there of a truncated file and greys the rest. This
    glance spares nearly all images per second, strict decoding. True also for
    other kinds.
    """
    if data[:2] == b'\xff\xd8':
        return data[-2:] == b'\xff\xd9'
    if data[:8] == _PNG:
        return data[-8:-4] == b'IEND'
    return True
