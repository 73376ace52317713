# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
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

from dito.datasets import DITOLoadImageFromFile, DITOLVISDataset


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
    'name, size', [('000003.jpg', 12), ('000005.jpg', 0)]
)
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_broken_image_is_named(folder, name, size, backend):
    transform = DITOLoadImageFromFile(imdecode_backend=backend)
    message = rf'{name} \({size} bytes\) cannot be decoded'
    with pytest.raises(ValueError, match=message):
        transform(dict(img_path=str(folder / name)))


def test_missing_image_is_named(folder):
    with pytest.raises(FileNotFoundError, match='gone.jpg does not exist'):
        DITOLoadImageFromFile()(dict(img_path=str(folder / 'gone.jpg')))


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
