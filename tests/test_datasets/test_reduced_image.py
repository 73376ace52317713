# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Reading of very large pictures at reduced size."""

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dito.datasets import reduced_image
from dito.datasets.image_text.image_header import (
    image_size,
    jpeg_header,
    open_image,
)
from dito.datasets.reduced_image import (
    WHOLE_PIXELS,
    decode_reduced,
    reading_plan,
    reduction,
    shrink,
)

SIZE = (128, 192)


def smooth(channels: int = 3) -> np.ndarray:
    """A picture without edges, uint8."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = [
        127 + 120 * np.sin(x / (30 + 9 * c) + y / 40) for c in range(channels)
    ]
    return np.stack(waves, -1).round().astype(np.uint8)


def coded(suffix: str, mode: str = 'RGB', **options: Any) -> bytes:
    """The picture encoded by Pillow."""
    file = io.BytesIO()
    Image.fromarray(smooth()[..., ::-1]).convert(mode).save(
        file, suffix, **options
    )
    return file.getvalue()


@pytest.mark.parametrize(
    'suffix, mode, options',
    [
        ('JPEG', 'RGB', {}),
        ('JPEG', 'RGB', dict(progressive=True)),
        ('JPEG', 'CMYK', {}),
        ('PNG', 'RGB', {}),
        ('PNG', 'P', {}),
        ('TIFF', 'RGB', {}),
        ('TIFF', 'RGBA', dict(compression='tiff_lzw')),
        ('BMP', 'RGB', {}),
        ('WEBP', 'RGB', dict(lossless=True)),
        ('TGA', 'RGB', {}),
        ('JPEG2000', 'RGB', {}),
    ],
)
@pytest.mark.parametrize('factor', [2, 4, 8, 16])
def test_is_the_average_of_areas(
    suffix: str, mode: str, options: dict[str, Any], factor: int
) -> None:
    if mode == 'P':
        options = dict(options, optimize=False)
    content = coded(suffix, mode, **options)
    small = decode_reduced(content, factor)
    wanted = shrink(smooth(), factor).astype(float)
    if suffix == 'JPEG2000':  # Its halves are samples, not averages.
        wanted = smooth()[::factor, ::factor].astype(float)
    assert small.shape == wanted.shape and small.dtype == np.uint8
    # Palettes dither, JPEGs lose.
    assert np.abs(small - wanted).mean() < (14 if mode == 'P' else 6)


def test_just_above_what_is_read_whole() -> None:
    height, width = 10_000, 15_001
    assert height * (width - 1) == WHOLE_PIXELS < height * width
    file = io.BytesIO()
    Image.new('L', (width, height), 128).save(file, 'JPEG', quality=10)
    content = file.getvalue()
    factor, size = reading_plan(content, WHOLE_PIXELS)
    assert (factor, size) == (2, (height, width))
    assert reading_plan(content) == (2, size)
    small = decode_reduced(content, 8)  # less memory than at a half
    assert small.shape == (1_250, 1_876, 3)
    assert small.min() == small.max() == 128


@pytest.mark.parametrize('dtype, scale', [(np.uint16, 257), (np.float32, 1)])
def test_tiffs_that_pillow_cannot_read(
    dtype: Any, scale: int, tmp_path: Path
) -> None:
    path = str(tmp_path / 'deep.tif')
    cv2.imwrite(path, smooth().astype(dtype) * dtype(scale))
    content = Path(path).read_bytes()
    assert image_size(content) == SIZE
    whole = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode_reduced(content, 2), shrink(whole, 2))
    assert dtype == np.float32 or np.abs(whole - smooth() * 1.0).max() < 2


@pytest.mark.parametrize(
    'suffix, dtype, scale',
    [
        ('.hdr', np.float32, 255),
        ('.pfm', np.float32, 1),
        ('.pam', np.uint8, 1),
        ('.tif', np.float32, 1),
    ],
)
def test_kinds_of_opencv_have_a_size(
    suffix: str, dtype: Any, scale: int
) -> None:
    """Without it they would be decoded whole, however large they are."""
    picture = (smooth() / scale).astype(dtype)
    content = cv2.imencode(suffix, picture)[1].tobytes()
    assert image_size(content) == SIZE
    if dtype == np.uint8:
        return
    # OpenCV makes 12 bytes of each pixel before it makes 3.
    height, width = SIZE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduced_image, 'FULL_PIXELS', height * width // 3)
        patch.setattr(
            reduced_image, 'MOST_BYTES', len(content) + 15 * height * width
        )
        with pytest.raises(ValueError, match='GB to decode'):
            reading_plan(content)
        patch.setattr(
            reduced_image, 'MOST_BYTES', len(content) + 17 * height * width
        )
        assert reading_plan(content) == (2, SIZE)


@pytest.mark.parametrize('size', [(12, 20), (13, 21), (3, 50)])
@pytest.mark.parametrize('rows', [1, 1000])
def test_shrink(
    size: tuple, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Bands of few rows give what the whole gives.
    monkeypatch.setattr(reduced_image, 'FULL_PIXELS', 32 * size[1] * rows)
    image = np.random.default_rng(0).integers(
        0, 255, (*size, 3), dtype=np.uint8
    )
    for given in (image, image[..., ::-1], image[::-1, ::-1]):
        small = shrink(given, 4)
        assert small.shape == (-(-size[0] // 4), -(-size[1] // 4), 3)
        height, width = size[0] // 4, size[1] // 4
        means = (
            given[: height * 4, : width * 4]
            .reshape(height, 4, width, 4, 3)
            .mean((1, 3))
        )
        if size == (12, 20):
            np.testing.assert_allclose(small, means, atol=0.51)
    assert shrink(image, 1) is image


@pytest.mark.parametrize(
    'size, factor',
    [
        ((5000, 10000), 1),
        ((5001, 10000), 2),
        ((9000, 12000), 2),
        ((30000, 30000), 8),
        ((1, 50_000_001), 2),
    ],
)
def test_reduction(size: tuple, factor: int) -> None:
    assert reduction(size) == factor
    assert size[0] * size[1] <= 50_000_000 * factor**2


def test_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = coded('JPEG', exif=exif.tobytes())
    assert reading_plan(content) == (1, SIZE[::-1])
    monkeypatch.setattr(reduced_image, 'FULL_PIXELS', 5000)
    assert reading_plan(content) == (4, SIZE[::-1])
    assert reading_plan(b'no picture') == (1, None)


def test_what_takes_too_much_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reduced_image, 'FULL_PIXELS', 10_000)
    monkeypatch.setattr(reduced_image, 'MOST_BYTES', 115_000)
    kinds = dict(
        plain=coded('JPEG', quality=50),
        layers=coded('JPEG2000', quality_layers=[40]),
    )
    for content in kinds.values():
        assert reading_plan(content)[0] == 2
    for content in (
        coded('PNG'),
        coded('BMP'),
        coded('TIFF'),
        coded('JPEG', progressive=True, subsampling=0),
    ):
        with pytest.raises(ValueError, match='192 x 128 pixels.*JPEG'):
            reading_plan(content)


def test_header_of_a_jpeg() -> None:
    for options, number in (
        (dict(subsampling=0), 3),
        (dict(subsampling=2), 1.5),
    ):
        header = jpeg_header(coded('JPEG', **options))
        assert header[:3] == (*SIZE, False)
        assert header.coefficients == number
    assert jpeg_header(coded('JPEG', 'L')).coefficients == 1
    assert jpeg_header(coded('JPEG', progressive=True)).progressive
    # Three components, of which the first scan has one.
    frame = struct.pack('>BHHB', 8, 40, 30, 3) + b'\1\x22\0\2\x11\1\3\x11\1'
    scan = b'\1\1\0\0\x3f\0'
    content = b'\xff\xd8' + b''.join(
        mark + struct.pack('>H', len(part) + 2) + part
        for mark, part in ((b'\xff\xc0', frame), (b'\xff\xda', scan))
    )
    assert jpeg_header(content + bytes(16)) == (40, 30, True, 1.5)


def test_headers_of_giants_are_read_and_pixels_are_not() -> None:
    gif = b'GIF89a' + struct.pack('<HHBBB', 60000, 50000, 0, 0, 0)
    gif += b'\x2c' + struct.pack('<HHHHB', 0, 0, 60000, 50000, 0) + b'\2\0;'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert image_size(gif) == (50000, 60000)
        with pytest.raises(OSError, match='60000 x 50000 pixels'):
            open_image(gif)
        with pytest.raises(ValueError, match='60000 x 50000 .* GB'):
            reading_plan(gif)
