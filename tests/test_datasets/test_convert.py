# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import json
import runpy
import sys
from pathlib import Path

import pytest
from detection_files import (
    make_annotation,
    make_categories,
    make_image,
    write_json,
)
from mmdet.datasets import CocoDataset

from dito.datasets import DITOCocoDataset, DITOLVISDataset
from dito.datasets.convert import convert_file

TOOLS = Path(__file__).parents[2] / 'tools' / 'dataset_converters'


@pytest.fixture
def lvis_file(tmp_path):
    images = [make_image(i) for i in range(1, 4)]
    images[0]['neg_category_ids'] = [1, 2, 3]
    images[1]['not_exhaustive_category_ids'] = [2, 3]
    annotations = [
        make_annotation(1, 1, 1),
        make_annotation(2, 2, 2),
        make_annotation(3, 3, 3),
        make_annotation(4, 3, 2),
    ]
    return write_json(
        tmp_path / 'train.json',
        dict(
            info=dict(version='1'),
            images=images,
            annotations=annotations,
            categories=make_categories(['a', 'b', 'c'], 'frc'),
        ),
    )


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Run a program in this process, as its command line would."""

    def run(name, *args):
        monkeypatch.setattr(sys, 'argv', [name, *args])
        runpy.run_path(str(TOOLS / name), run_name='__main__')
        return capsys.readouterr().out

    return run


def test_nothing_of_the_rare_classes_stays(lvis_file, tmp_path):
    out = str(tmp_path / 'new' / 'base.json')
    counts = convert_file(lvis_file, out, split='base')
    assert counts == dict(images=3, annotations=2, categories=2)
    content = json.loads(Path(out).read_text())
    assert [cat['name'] for cat in content['categories']] == ['a', 'c']
    assert [cat['id'] for cat in content['categories']] == [1, 3]
    assert content['images'][0]['neg_category_ids'] == [1, 3]
    assert content['images'][1]['not_exhaustive_category_ids'] == [3]
    assert content['info'] == dict(version='1')
    assert [p.name for p in (tmp_path / 'new').iterdir()] == ['base.json']


def test_the_small_file_loads_as_the_base_split_of_the_whole(
    lvis_file, tmp_path
):
    out = str(tmp_path / 'base.json')
    convert_file(lvis_file, out, split='base')
    whole = DITOLVISDataset(ann_file=lvis_file, split='base')
    small = DITOLVISDataset(ann_file=out, split='all')
    assert small.metainfo == whole.metainfo
    assert [small[i] for i in range(3)] == [whole[i] for i in range(3)]


def test_images_without_objects_can_go(lvis_file, tmp_path):
    out = str(tmp_path / 'base.json')
    counts = convert_file(lvis_file, out, split='base', drop_empty=True)
    assert counts['images'] == 2


def test_errors(lvis_file, tmp_path):
    with pytest.raises(FileNotFoundError, match='gone.json'):
        convert_file('gone.json', str(tmp_path / 'out.json'), split='base')
    with pytest.raises(ValueError, match='would be overwritten'):
        convert_file(lvis_file, lvis_file, split='base')


def test_lvis_tool(lvis_file, run_tool):
    printed = run_tool('lvis2ov.py', lvis_file, '--drop-empty')
    out = lvis_file.replace('train.json', 'train_base.json')
    assert printed == f'{out} 2 images, 2 annotations, 2 categories\n'
    assert len(json.loads(Path(out).read_text())['images']) == 2


def test_coco_tool(tmp_path, run_tool):
    names = CocoDataset.METAINFO['classes']
    source = write_json(
        tmp_path / 'val.json',
        dict(
            images=[make_image(1)],
            annotations=[make_annotation(i + 1, 1, i + 1) for i in range(80)],
            categories=make_categories(names),
        ),
    )
    for split, number in (('base', 48), ('all', 65)):
        printed = run_tool('coco2ov.py', source, '--split', split)
        assert f'{number} annotations, {number} categories' in printed
        small = DITOCocoDataset(
            ann_file=str(tmp_path / f'val_ov_{split}.json'), split=split
        )
        whole = DITOCocoDataset(ann_file=source, split=split)
        assert small[0] == whole[0]
        assert small.metainfo == whole.metainfo
    with pytest.raises(SystemExit, match='error: .*no.json does not exist'):
        run_tool('coco2ov.py', str(tmp_path / 'no.json'), '--split', 'all')
