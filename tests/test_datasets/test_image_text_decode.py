# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Unusual images: what becomes of each, beside open_clip's convert('RGB')."""

import io
import zlib

import cv2
import numpy as np
import pytest
from image_text_files import photo, write_tar
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf

import dito.datasets.image_text.transforms as decode_module
from dito.datasets.image_text import CropTransform, ImageTextShards
from dito.datasets.image_text.bad_samples import BadSample
from dito.datasets.image_text.image_header import (
    image_size,
    jpeg_header,
    jpeg_size,
)
from dito.datasets.image_text.transforms import decode_reduced


def encoded(image, kind, **kwargs):
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def picture(height=60, width=80):
    return Image.open(io.BytesIO(photo(height, width)))


@pytest.fixture(autouse=True, params=['opencv', 'simplejpeg'])
def backend(request, monkeypatch):
    """Each with and without the optional decoder."""
    if request.param == 'opencv':
        monkeypatch.setattr(decode_module, 'simplejpeg', None)
    else:
        pytest.importorskip('simplejpeg')
    return request.param


def decode(data):
    """Decode at full size, RGB."""
    return decode_reduced(data, jpeg_size(data), 1)[..., ::-1]


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


def difference(one, other):
    return np.abs(one.astype(float) - other).mean()


def png(height, width, depth, kind, rows):
    """A PNG by hand: Pillow writes no 16-bit colour."""

    def chunk(name, data):
        return (
            len(data).to_bytes(4, 'big')
            + name
            + data
            + zlib.crc32(name + data).to_bytes(4, 'big')
        )

    head = (
        width.to_bytes(4, 'big')
        + height.to_bytes(4, 'big')
        + bytes([depth, kind, 0, 0, 0])
    )
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', head)
        + chunk(b'IDAT', zlib.compress(rows))
        + chunk(b'IEND', b'')
    )


@pytest.mark.parametrize(
    'mode,kind,tolerance',
    [
        ('RGB', 'JPEG', 0),
        ('RGB', 'PNG', 0),
        ('L', 'JPEG', 0),
        ('L', 'PNG', 0),
        ('1', 'PNG', 0),
        ('P', 'PNG', 0),
        ('RGBA', 'PNG', 0),
        ('LA', 'PNG', 0),
        ('CMYK', 'JPEG', 1.5),
        ('RGB', 'WEBP', 0.5),
        ('RGBA', 'WEBP', 0.5),
        # Not among the extensions of shards, but files are often misnamed.
        ('RGB', 'BMP', 0),
        ('RGB', 'TIFF', 0),
        ('P', 'GIF', 0),
    ],
)
def test_modes_and_formats_give_what_pillow_gives(mode, kind, tolerance):
    data = encoded(picture().convert(mode), kind)
    assert image_size(data) == (60, 80)
    found = decode(data)
    assert found.shape == (60, 80, 3)
    assert difference(found, by_pillow(data)) <= tolerance


def test_a_hidden_colour_shows_where_alpha_is_zero():
    image = Image.new('RGBA', (8, 8), (200, 100, 50, 0))
    assert (decode(encoded(image, 'PNG')) == (200, 100, 50)).all()


def test_a_palette_with_a_transparent_colour():
    image = picture().convert('P')
    data = encoded(image, 'PNG', transparency=3)
    assert difference(decode(data), by_pillow(data)) == 0


def test_of_16_bits_the_upper_8_count():
    values = np.arange(0, 2**16, 2**10, dtype=np.uint16)
    rows = b''.join(b'\0' + values.astype('>u2').tobytes() for _ in range(4))
    found = decode(png(4, 64, 16, 0, rows))
    assert (found == (values >> 8)[None, :, None]).all()
    colour = np.stack([values, values[::-1], values // 2], 1)
    rows = b''.join(b'\0' + colour.astype('>u2').tobytes() for _ in range(4))
    assert (decode(png(4, 64, 16, 2, rows)) == (colour >> 8)[None]).all()


def test_the_exif_orientation_is_ignored():
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    turned = encoded(image, 'JPEG', exif=exif, quality=95)
    plain = encoded(image, 'JPEG', quality=95)
    assert jpeg_size(turned) == (60, 80)
    assert np.array_equal(decode(turned), decode(plain))


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_a_file_that_breaks_off_is_broken(kind):
    data = encoded(picture(), kind)
    decode(data)
    for share in (0.5, 0.9):
        with pytest.raises(BadSample, match='cannot be decoded'):
            decode(data[: int(share * len(data))])
    with pytest.raises(BadSample, match='cannot be decoded'):
        CropTransform(16, scale=None)(data[:-30])


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_bytes_after_the_end_do_no_harm(kind):
    data = encoded(picture(), kind)
    assert difference(decode(data + b'\0garbage'), by_pillow(data)) == 0


@pytest.mark.parametrize('end', [b'', b'garbage'])
def test_a_reduced_image_is_cut_at_the_same_places(end):
    """Also where Pillow decodes it."""
    data = encoded(picture(203, 301), 'JPEG') + end
    transform = CropTransform(48, scale=(0.9, 1))
    box, factor = transform.plan((203, 301), np.random.default_rng(1))
    assert factor == 4 and not any(v % 4 for v in box)
    want = tvf.resized_crop(
        Image.open(io.BytesIO(data)), *box, [48, 48], InterpolationMode.BICUBIC
    )
    got = transform(data, np.random.default_rng(1)).transpose(1, 2, 0)
    assert difference(got, np.asarray(want)) < 1


def test_no_bytes_and_no_image():
    for data, reason in (
        (b'', 'empty image file'),
        (b'<html>', 'image cannot be decoded'),
        (b'\xff\xd8\xff\xd9', 'image cannot be decoded'),
    ):
        with pytest.raises(BadSample) as info:
            CropTransform(8, scale=None)(data)
        assert info.value.reason == reason


def test_a_20000_pixel_jpeg_is_decoded_at_an_eighth(monkeypatch):
    image = Image.new('L', (20_000, 2000), 90)
    data = encoded(image, 'JPEG')
    shapes = []
    decoder = cv2.imdecode

    def spy(buffer, flags):
        shapes.append(decoder(buffer, flags).shape)
        return decoder(buffer, flags)

    monkeypatch.setattr(cv2, 'imdecode', spy)
    out = CropTransform(64, scale=None, max_pixels=10_000_000)(data)
    assert shapes == [(250, 2500, 3)]
    assert out.shape == (3, 64, 64) and (np.abs(out - 90.0) <= 1).all()


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(cv2, 'imdecode', None)
    huge = png(20_000, 20_000, 8, 0, b'')
    with pytest.raises(BadSample, match='20000 x 20000 pixels') as info:
        CropTransform(64, scale=None)(huge)
    assert info.value.reason == 'image too large'
    # A progressive JPEG needs memory for all of it, at any scale.
    data = encoded(picture(400, 400), 'JPEG', progressive=True)
    assert jpeg_header(data).progressive
    with pytest.raises(BadSample, match='too large'):
        CropTransform(16, scale=None, max_pixels=100_000)(data)


def test_a_long_thin_image():
    data = encoded(Image.new('RGB', (20_000, 3), (9, 99, 199)), 'PNG')
    out = CropTransform(16)(data, np.random.default_rng(0))
    assert np.abs(out.reshape(3, -1).T - (9.0, 99.0, 199.0)).max() == 0


@pytest.mark.parametrize(
    'height,width,box',
    [
        (300, 400, (10, 20, 250, 300)),
        (120, 90, (0, 0, 120, 90)),
        (40, 50, (3, 4, 30, 40)),
    ],
)
def test_the_resized_crop_is_pillows(height, width, box):
    """To a rounding error, shrinking and enlarging."""
    data = encoded(picture(height, width), 'PNG')
    transform = CropTransform(64, scale=(0.5, 1))
    transform._box = lambda size, rng: box
    want = tvf.resized_crop(
        Image.open(io.BytesIO(data)), *box, [64, 64], InterpolationMode.BICUBIC
    )
    got = transform(data, np.random.default_rng(0)).transpose(1, 2, 0)
    gap = np.abs(got.astype(int) - np.asarray(want))
    assert gap.max() <= 1 and gap.mean() < 0.1


def test_odd_images_in_a_shard(tmp_path):
    grey = encoded(picture().convert('L'), 'JPEG')
    images = dict(
        a=('jpg', grey),
        b=('JPEG', encoded(picture(), 'JPEG')),
        c=('png', encoded(picture(), 'PNG')),
        d=('jpg', b''),
        e=('webp', encoded(picture(), 'WEBP')),
        f=('jpg', grey[:-50]),
        g=('jpg', encoded(picture().convert('CMYK'), 'JPEG')),
    )
    members = []
    for key, (extension, data) in images.items():
        members += [(f'{key}.{extension}', data), (f'{key}.txt', b'text')]
    dataset = ImageTextShards(
        write_tar(tmp_path / 's.tar', members), 32, epochs=1
    )
    assert [s['keys'] for s in dataset] == [f's/{k}' for k in 'abceg']
    assert dict(dataset.counter.broken) == {
        'empty image file': 1,
        'image cannot be decoded': 1,
    }
    assert dataset.counter.summary() == (
        '7 samples read, 2 broken (1 empty image file, 1 image cannot be '
        'decoded), 0 filtered'
    )
