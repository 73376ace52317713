# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import io
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from detection_files import (
    make_annotation,
    make_categories,
    make_image,
    write_images,
    write_json,
)
from mmcv.transforms import LoadImageFromFile
from PIL import Image, features

from dito.datasets import DITOLoadImageFromFile, DITOLVISDataset
from dito.datasets import load_image as web_image


@pytest.fixture
def folder(tmp_path):
    """Six images; number 3 is not an image and number 5 is empty."""
    images = [make_image(i) for i in range(1, 7)]
    write_images(tmp_path, images)
    (tmp_path / '000003.jpg').write_bytes(b'not an image')
    (tmp_path / '000005.jpg').write_bytes(b'')
    write_json(
        tmp_path / 'train.json',
        dict(
            images=images,
            annotations=[make_annotation(i, i, 1) for i in range(1, 7)],
            categories=make_categories('a', 'f'),
        ),
    )
    return tmp_path


def build_dataset(folder, **kwargs):
    test_mode = kwargs.pop('test_mode', False)
    return DITOLVISDataset(
        ann_file='train.json',
        data_root=str(folder),
        data_prefix=dict(img=''),
        test_mode=test_mode,
        pipeline=[DITOLoadImageFromFile(**kwargs)],
    )


def test_same_result_as_mmcv(folder):
    path = str(folder / '000001.jpg')
    ours = DITOLoadImageFromFile(to_float32=True)(dict(img_path=path))
    theirs = LoadImageFromFile(to_float32=True)(dict(img_path=path))
    assert ours.keys() == theirs.keys()
    assert ours['img'].dtype == np.float32
    np.testing.assert_array_equal(ours['img'], theirs['img'])
    assert ours['img_shape'] == ours['ori_shape'] == (48, 64)


@pytest.mark.parametrize(
    'mode, kind',
    [
        *(('L', kind) for kind in ('png', 'tiff', 'jpeg')),
        *(('1', kind) for kind in ('png', 'tiff', 'bmp')),
        *(('P', kind) for kind in ('png', 'tiff', 'gif', 'bmp')),
        *(('RGBA', kind) for kind in ('png', 'tiff', 'webp')),
        *(('CMYK', kind) for kind in ('tiff', 'jpeg')),
        ('LA', 'png'),
    ],
)
def test_modes_are_read_as_pillow_converts_them(mode, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 4), np.uint8)
    image = Image.fromarray(pixels)
    image = image if mode == 'RGBA' else image.convert('RGB').convert(mode)
    options = dict(lossless=True, exact=True) if kind == 'webp' else {}
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    with Image.open(stream) as written:
        assert written.mode == mode
        wanted = np.asarray(written.convert('RGB')).astype(int)
    read = DITOLoadImageFromFile().decode('a', stream.getvalue())
    # OpenCV's decoder of CMYK rounds by itself.
    assert np.abs(read[..., ::-1] - wanted).max() <= (mode == 'CMYK')


@pytest.mark.parametrize('kind', ['.png', '.tiff'])
@pytest.mark.parametrize('channels', [1, 3])
def test_16_bits_are_scaled(kind, channels):
    pixels = np.arange(6 * 8 * channels, dtype=np.uint8) * 5
    pixels = pixels.reshape(6, 8, channels)
    content = cv2.imencode(kind, pixels.astype(np.uint16) * 257)[1].tobytes()
    read = DITOLoadImageFromFile().decode('a', content)
    np.testing.assert_array_equal(read, np.broadcast_to(pixels, (6, 8, 3)))


@pytest.mark.parametrize('most, kind', [(1, 'F'), (300, 'F'), (70000, 'I')])
def test_numbers_of_another_scale_are_not_cut_to_bytes(most, kind):
    image = Image.fromarray(np.linspace(0, most, 48).reshape(6, 8))
    stream = io.BytesIO()
    image.convert(kind).save(stream, 'tiff')
    with pytest.raises(ValueError, match=f'0 to {most:g}, must be scaled'):
        DITOLoadImageFromFile().decode('a', stream.getvalue())


@pytest.mark.parametrize('name, size', [('000003.jpg', 12), ('000005.jpg', 0)])
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_broken_image_is_named(folder, name, size, backend):
    transform = DITOLoadImageFromFile(imdecode_backend=backend)
    message = rf'{name} \({size} bytes\) cannot be decoded'
    with pytest.raises(ValueError, match=message):
        transform(dict(img_path=str(folder / name)))


def test_missing_image_is_named(folder):
    with pytest.raises(FileNotFoundError, match='gone.jpg does not exist'):
        DITOLoadImageFromFile()(dict(img_path=str(folder / 'gone.jpg')))


def test_image_of_somebody_else_is_named(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(web_image.fileio, 'get', refuse)
    path = str(folder / '000001.jpg')
    with pytest.raises(
        PermissionError, match='000001.jpg may not be read .permission denied'
    ):
        DITOLoadImageFromFile().fetch(path)


def test_training_skips_broken_images_and_counts_them(folder, monkeypatch):
    lines = []
    monkeypatch.setattr(
        'dito.datasets.load_image.print_log',
        lambda text, **kwargs: lines.append(text),
    )
    dataset = build_dataset(folder, on_error='skip')
    seen = {dataset[i]['img_id'] for i in range(6)}
    assert seen.isdisjoint({3, 5})
    transform = dataset.pipeline.transforms[0]
    assert transform.num_skipped == len(lines) >= 2
    assert lines[0].startswith('Skipped (1 so far in this process): image')
    assert '000003.jpg' in lines[0]


def test_too_many_broken_images_stop_the_run(folder):
    transform = DITOLoadImageFromFile(on_error='skip', max_skipped=1)
    assert transform(dict(img_path=str(folder / '000003.jpg'))) is None
    with pytest.raises(
        ValueError, match='2 images .* max_skipped=1; the last: .*000005.jpg'
    ):
        transform(dict(img_path=str(folder / '000005.jpg')))


def test_test_mode_stops_at_a_broken_image(folder):
    dataset = build_dataset(folder, test_mode=True)
    assert dataset[0]['img_id'] == 1
    with pytest.raises(ValueError, match='000003.jpg'):
        dataset[2]


def test_options_are_checked_and_shown():
    with pytest.raises(ValueError, match="not 'ignore'"):
        DITOLoadImageFromFile(on_error='ignore')
    assert "on_error='skip', max_skipped=7)" in repr(
        DITOLoadImageFromFile(on_error='skip', max_skipped=7)
    )


# How a picture is stored that an orientation of EXIF sets upright.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def four_colours():
    """An RGB picture (24, 40, 3) that no flip or turn leaves as it is."""
    picture = np.full((24, 40, 3), 240, np.uint8)
    picture[:12, :20] = 250, 20, 20
    picture[:12, 20:] = 20, 250, 20
    picture[12:, :20] = 20, 20, 250
    return picture


@pytest.mark.parametrize('orientation', STORED)
@pytest.mark.parametrize('kind', ['jpg', 'png', 'webp', 'avif', 'tif'])
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_pictures_are_set_upright(tmp_path, orientation, kind, backend):
    if kind == 'avif' and not features.check('avif'):
        pytest.skip('this Pillow does not write AVIF')
    stored = Image.fromarray(four_colours())
    if STORED[orientation] is not None:
        stored = stored.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f'picture.{kind}'
    stored.save(path, exif=exif)
    loaded = DITOLoadImageFromFile(imdecode_backend=backend)(
        dict(img_path=str(path))
    )
    assert loaded['img_shape'] == loaded['ori_shape'] == (24, 40)
    # Codecs with losses keep the middle of a patch well enough.
    got = loaded['img'][6::12, 10::20, ::-1].astype(int)
    np.testing.assert_allclose(got, four_colours()[6::12, 10::20], atol=25)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Address of a server of the folder; /slow never answers."""
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    done = threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def do_GET(self):
            if self.path == '/slow':
                done.wait()
            elif self.path == '/cut':
                self.send_response(200)
                self.send_header('Content-Length', '1000')
                self.end_headers()
                self.wfile.write(b'few')
            elif self.path == '/endless':
                self.send_response(200)
                self.end_headers()
                self.wfile.write(bytes(5000))
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{found.server_port}'
        done.set()
        found.shutdown()
        thread.join()


def test_pictures_of_the_web(tmp_path, server, monkeypatch):
    Image.fromarray(four_colours()).save(tmp_path / 'a b.png')
    (tmp_path / 'page.jpg').write_text('<html>not here</html>')
    (tmp_path / 'large.png').write_bytes(bytes(5000))
    loader = DITOLoadImageFromFile()
    loaded = loader(dict(img_path=f'{server}/a%20b.png'))
    np.testing.assert_array_equal(loaded['img'][..., ::-1], four_colours())
    monkeypatch.setattr(web_image, '_MOST_BYTES', 4000)
    monkeypatch.setattr(web_image, '_SILENCE', 0.2)
    for path, message in (
        ('page.jpg', 'page.jpg .21 bytes. cannot be decoded'),
        ('gone.jpg', r'gone.jpg cannot be fetched \(the server says 404'),
        ('large.png', r'fetched \(it has more than 4,000 bytes'),
        ('endless', r'fetched \(it has more than 4,000 bytes'),
        ('slow', r'slow cannot be fetched \(timed out\)'),
        ('cut', r'fetched \(3 of its 1000 bytes came'),
        ('a b.png', 'cannot be fetched .*control characters'),
    ):
        with pytest.raises(ValueError, match=message):
            loader(dict(img_path=f'{server}/{path}'))
    with pytest.raises(ValueError, match='fetched .*refused.*; check the'):
        loader(dict(img_path='http://127.0.0.1:9/a.png'))
    monkeypatch.setattr(web_image, '_MOST_BYTES', 1 << 28)
    monkeypatch.setattr(web_image, '_MOST_SECONDS', -1)
    with pytest.raises(ValueError, match='it took more than -1 seconds'):
        loader(dict(img_path=f'{server}/large.png'))
