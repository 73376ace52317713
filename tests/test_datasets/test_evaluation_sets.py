# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Sets for zero-shot classification and retrieval."""

import io
import json
import tarfile

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS

from dito.datasets import (
    DITOClassificationDataset,
    DITORetrievalDataset,
    imagenet_names,
)
from dito.datasets.image_text import image_text_collate


def picture(value, extension='.png'):
    image = np.full((10, 12, 3), value, np.uint8)
    return cv2.imencode(extension, image)[1].tobytes()


def write_tar(path, members, mode='w'):
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_pairs_by_number(tmp_path):
    write_tar(
        tmp_path / '0.tar',
        [
            ('a.png', picture(10)),
            ('a.txt', b' a grey square\n'),
            ('b.txt', b'no image'),
            ('c.jpg', picture(90, '.jpg')),
            ('c.txt', b'  '),
            ('d.png', picture(50)),
            ('d.txt', 'ein zweites Bild, größer'.encode()),
        ],
    )
    write_tar(
        tmp_path / '1.tar',
        [('a.txt', b'another a'), ('a.jpg', picture(200, '.jpg'))],
    )
    data = DITORetrievalDataset(str(tmp_path / '{0..1}.tar'), 8)
    assert len(data) == 3
    assert [data[i]['texts'] for i in range(3)] == [
        ['a grey square'],
        ['ein zweites Bild, größer'],
        ['another a'],
    ]
    assert [int(data[i]['inputs'].mean()) for i in range(3)] == [10, 50, 200]
    batch = image_text_collate([data[2], data[0]])
    assert batch['inputs'].shape == (2, 3, 8, 8)
    assert batch['texts'] == [['another a'], ['a grey square']]


def test_several_captions_from_json(tmp_path):
    for name, value in (('a', ['one', ' ', 'two']), ('b', 'three')):
        write_tar(
            tmp_path / f'{name}.tar',
            [
                (f'{name}.jpg', picture(9, '.jpg')),
                (f'{name}.json', json.dumps(dict(captions=value)).encode()),
            ],
        )
    data = DITORetrievalDataset(
        [str(tmp_path / 'a.tar'), str(tmp_path / 'b.tar')],
        8,
        caption='json.captions',
    )
    assert [pair.texts for pair in data.pairs] == [('one', 'two'), ('three',)]
    with pytest.raises(FileNotFoundError, match="caption in 'json.title'"):
        DITORetrievalDataset(str(tmp_path / 'a.tar'), 8, caption='json.title')


def test_bad_shards_are_named(tmp_path):
    (tmp_path / 'x.tar').write_bytes(b'no tar' * 200)
    with pytest.raises(ValueError, match='no whole, uncompressed tar'):
        DITORetrievalDataset(str(tmp_path / 'x.tar'), 8)
    with pytest.raises(FileNotFoundError):
        DITORetrievalDataset(str(tmp_path / 'none.tar'), 8)
    write_tar(tmp_path / 'y.tar', [('a.png', b'broken'), ('a.txt', b'a')])
    with pytest.raises(FileNotFoundError, match='no image with a caption'):
        DITORetrievalDataset(str(tmp_path / 'y.tar'), 8)
    write_tar(tmp_path / 'z.tar', [('a.png', picture(1)), ('a.txt', b'a')])
    whole = (tmp_path / 'z.tar').read_bytes()
    (tmp_path / 'z.tar').write_bytes(whole[:600])
    with pytest.raises(ValueError, match='no whole, uncompressed tar'):
        DITORetrievalDataset(str(tmp_path / 'z.tar'), 8)


def test_broken_pairs_are_left_out_at_the_start(tmp_path, monkeypatch):
    """A validation after a week must not stop at an image."""
    jpeg = picture(90, '.jpg')
    write_tar(
        tmp_path / '0.tar',
        [
            ('a.jpg', jpeg),
            ('a.json', b'{"text": "a"}'),
            ('b.jpg', jpeg[:-20]),
            ('b.json', b'{"text": "b"}'),
            ('c.png', b''),
            ('c.json', b'{"text": "c"}'),
            ('d.jpg', jpeg),
            ('d.json', b'{"text": '),
            ('e.jpg', jpeg),
            ('e.json', b'[]'),
            ('f.jpg', jpeg + b'more'),
            ('f.json', b'{"text": "f"}'),
        ],
    )
    said = []
    monkeypatch.setattr(
        'dito.datasets.image_text.evaluation_sets.print_log',
        lambda text, **kwargs: said.append(text),
    )
    data = DITORetrievalDataset(
        str(tmp_path / '0.tar'), 8, caption='json.text'
    )
    assert [data[i]['keys'] for i in range(len(data))] == ['a', 'f']
    (text,) = said
    assert '4 of 6 samples are left out' in text
    assert '2 json cannot be read' in text
    assert '1 image cannot be decoded' in text
    assert '1 empty image file' in text


def test_imagenet_names_are_distinct():
    names = imagenet_names()
    assert len(names) == len(set(names)) == 1000
    assert names[0] == 'tench' and names[2] == 'great white shark'
    assert (names[657], names[744]) == ('missile', 'projectile')
    assert (names[836], names[837]) == ('sunglass', 'sunglasses')


def imagenet_layout(root, count=3):
    """Folders of synsets, as ImageNet's validation images are sorted."""
    for number in range(count):
        folder = root / 'val' / f'n{number:08d}'
        folder.mkdir(parents=True)
        for copy in range(2):
            (folder / f'{copy}.jpg').write_bytes(
                picture(40 * number + 20, '.jpg')
            )


def test_folders_of_imagenet(tmp_path):
    imagenet_layout(tmp_path)
    source = dict(
        type='ImageNet',
        data_root=str(tmp_path),
        split='val',
        metainfo=dict(classes=['x', 'y', 'z']),
    )
    data = DATASETS.build(
        dict(
            type='DITOClassificationDataset',
            dataset=source,
            size=8,
            names=['tench', 'goldfish', 'shark'],
        )
    )
    assert len(data) == 6
    assert data.metainfo['classes'] == ('tench', 'goldfish', 'shark')
    assert [data[i]['labels'] for i in range(6)] == [0, 0, 1, 1, 2, 2]
    assert [int(data[i]['inputs'].mean()) for i in (0, 3, 5)] == [20, 60, 100]
    assert data[4]['keys'].endswith('val/n00000002/0.jpg')
    own = DITOClassificationDataset(source, 8)
    assert own.metainfo['classes'] == ('x', 'y', 'z')
    with pytest.raises(ValueError, match='1000 names are given for 3'):
        DITOClassificationDataset(source, 8, names='imagenet')
    with pytest.raises(ValueError, match="expected 'imagenet'"):
        DITOClassificationDataset(source, 8, names='coco')
