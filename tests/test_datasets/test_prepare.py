# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of dito prepare on small downloads of the three sets."""

import json
import os
import zipfile

import pytest
from detection_files import (
    make_annotation,
    make_categories,
    make_image,
    write_images,
    write_json,
)
from mmdet.datasets import CocoDataset, LVISV1Dataset, Objects365V2Dataset
from mmengine.config import Config

from dito.cli.data_sets import prepare as main
from dito.datasets import DITOCocoDataset, DITOLVISDataset
from dito.datasets.prepare import LAYOUTS, prepare
from dito.utils.configs import config_root


def content(names, frequency=None):
    categories = make_categories(names, frequency)
    return dict(
        images=[make_image(1)],
        annotations=[
            make_annotation(i + 1, 1, i + 1) for i in range(len(names))
        ],
        categories=categories,
    )


def coco_download(folder):
    """Images unpacked, annotations still in their archive."""
    for part in ('train2017', 'val2017'):
        write_images(folder / 'images' / part, [make_image(1)])
    text = json.dumps(content(CocoDataset.METAINFO['classes']))
    archive = folder / 'zips' / 'annotations_trainval2017.zip'
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, 'w') as file:
        for part in ('train', 'val'):
            file.writestr(f'annotations/instances_{part}2017.json', text)


def lvis_download(folder):
    names = LVISV1Dataset.METAINFO['classes']
    frequency = ['r'] * 337 + ['c'] * 461 + ['f'] * 405
    for part in ('train', 'val'):
        write_json(folder / f'lvis_v1_{part}.json', content(names, frequency))


def states(steps):
    return [step.state for step in steps]


def snapshot(root):
    """Files and links below a folder with their times."""
    return {
        os.path.join(folder, name): os.lstat(
            os.path.join(folder, name)
        ).st_mtime_ns
        for folder, folders, files in os.walk(root)
        for name in (*folders, *files)
    }


def test_coco_is_laid_out_once(tmp_path, capsys):
    coco_download(tmp_path / 'download')
    root = tmp_path / 'data' / 'coco'
    argv = [
        'coco',
        '--out-dir',
        str(root),
        '--from',
        str(tmp_path / 'download'),
        '--convert',
    ]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert 'Everything is there.' in printed
    assert '(1 of 118287 images)' in printed
    first = snapshot(root)
    assert main(argv) == 0
    assert snapshot(root) == first
    assert not [path for path in first if path.endswith('.tmp')]
    prefix = dict(img=str(root / 'val2017'))
    for split, number in (('base', 48), ('novel', 17), ('all', 65)):
        file = root / 'annotations' / f'instances_val2017_ov_{split}.json'
        dataset = DITOCocoDataset(
            ann_file=str(file), split=split, data_prefix=prefix
        )
        assert len(dataset.metainfo['classes']) == number
        assert os.path.isfile(dataset[0]['img_path'])


def test_lvis_takes_the_images_of_coco(tmp_path):
    coco_download(tmp_path / 'download')
    data = tmp_path / 'data'
    layout = LAYOUTS['coco']
    prepare(layout, str(data / 'coco'), [str(tmp_path / 'download')])
    lvis_download(tmp_path / 'lvis')
    root = str(data / 'lvis_v1')
    layout = LAYOUTS['lvis']
    steps = prepare(layout, root, [str(tmp_path / 'lvis')], convert=True)
    assert states(steps) == ['linked'] * 4 + ['converted'] * 2
    assert states(prepare(layout, root, [], convert=True)) == ['there'] * 6
    base = f'{root}/annotations/lvis_v1_train_base.json'
    assert len(DITOLVISDataset(ann_file=base).metainfo['classes']) == 866
    names = json.loads(
        (data / 'lvis_v1/annotations/lvis_v1_categories.json').read_text()
    )
    assert len(names) == 1203
    # A newer source is converted again.
    os.utime(tmp_path / 'lvis' / 'lvis_v1_val.json', (4e9, 4e9))
    assert states(prepare(layout, root, [], convert=True))[4:] == [
        'converted',
        'there',
    ]


def test_missing_parts_are_named_with_their_owner(tmp_path, capsys):
    assert main(['lvis', '--out-dir', str(tmp_path / 'x'), '--convert']) == 1
    printed = capsys.readouterr().out
    assert '6 of 6 parts are missing' in printed
    assert 'lvis_v1_train.json.zip is published at' in printed
    assert 'www.lvisdataset.org' in printed and 'cocodataset.org' in printed
    assert not (tmp_path / 'x').exists()
    assert main(['objects365', '--out-dir', str(tmp_path / 'x')]) == 1
    assert 'www.objects365.org' in capsys.readouterr().out
    assert main(['coco', '--from', str(tmp_path / 'no')]) == 2
    assert 'no does not exist' in capsys.readouterr().err


def test_incomplete_downloads_are_not_used(tmp_path):
    lvis_download(tmp_path / 'lvis')
    cut = tmp_path / 'lvis' / 'lvis_v1_val.json'
    cut.write_bytes(cut.read_bytes()[:-1])
    steps = prepare(
        LAYOUTS['lvis'], str(tmp_path / 'root'), [str(tmp_path / 'lvis')]
    )
    assert states(steps) == ['linked', 'missing', 'missing', 'missing']
    assert 'lvis_v1_val.json is incomplete' in steps[1].detail
    (tmp_path / 'c' / 'train2017').mkdir(parents=True)
    steps = prepare(LAYOUTS['coco'], str(tmp_path / 'c'), [])
    assert states(steps) == ['missing'] * 4
    assert 'train2017 is empty: remove it' in steps[2].detail
    (tmp_path / 'coco').mkdir()
    archive = tmp_path / 'coco' / 'annotations_trainval2017.zip'
    archive.write_bytes(b'PK half')
    with pytest.raises(ValueError, match='trainval2017.zip is damaged'):
        prepare(LAYOUTS['coco'], str(tmp_path / 'c'), [str(tmp_path)])


def test_dead_links_are_replaced_and_doubles_refused(tmp_path):
    lvis_download(tmp_path / 'old')
    root, layout = str(tmp_path / 'root'), LAYOUTS['lvis']
    prepare(layout, root, [str(tmp_path / 'old')])
    (tmp_path / 'old').rename(tmp_path / 'new')
    assert states(prepare(layout, root, []))[0] == 'missing'
    assert states(prepare(layout, root, [str(tmp_path / 'new')]))[:2] == [
        'linked',
        'linked',
    ]
    lvis_download(tmp_path / 'twice')
    with pytest.raises(ValueError, match='lvis_v1_train.json is in several'):
        prepare(
            layout,
            str(tmp_path / 'other'),
            [str(tmp_path / 'new'), str(tmp_path / 'twice')],
        )


def test_objects365_v2_patches_come_together(tmp_path):
    folder = tmp_path / 'download'
    for path in (
        'val/images/v1/patch0',
        'val/images/v2/patch16',
        'train/images/v1/patch0',
    ):
        write_images(folder / path, [make_image(1)])
    write_json(
        folder / 'zhiyuan_objv2_val.json',
        content(Objects365V2Dataset.METAINFO['classes']),
    )
    layout, root = LAYOUTS['objects365v2'], str(tmp_path / 'root')
    steps = prepare(layout, root, [str(folder)], convert=True)
    assert states(steps) == ['linked', 'linked', 'converted']
    assert '2 folders (2 images)' in steps[1].detail
    assert os.path.realpath(f'{root}/val/patch0') == str(
        folder / 'val/images/v1/patch0'
    )
    again = prepare(layout, root, [str(folder)], convert=True)
    assert states(again) == ['there'] * 3


@pytest.mark.parametrize(
    'config, name',
    [
        ('lvis_ov_instance', 'lvis'),
        ('coco_ov_detection', 'coco'),
        ('objects365_ov_detection', 'objects365'),
    ],
)
def test_layouts_are_what_the_configs_read(config, name):
    path = config_root() / '_base_' / 'datasets' / f'{config}.py'
    cfg = Config.fromfile(path)
    layout = LAYOUTS[name]
    items = {f'{layout.root}/{item.path}' for item in layout.items}
    loaders = ['val_dataloader']
    if name != 'objects365':  # trained on LVIS
        loaders.append('train_dataloader')
    for loader in loaders:
        data = cfg[loader].dataset
        assert data.data_root + data.ann_file in items
        if data.data_prefix.img:
            assert data.data_root + data.data_prefix.img.rstrip('/') in items
