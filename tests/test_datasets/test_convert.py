# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import json
import sys
from pathlib import Path

import pytest
from detection_files import (
    make_annotation,
    make_categories,
    make_image,
    write_json,
)
from mmdet.datasets import (
    CocoDataset,
    LVISV1Dataset,
    Objects365V1Dataset,
    Objects365V2Dataset,
)

from dito.__main__ import main as dito
from dito.datasets import (
    DITOCocoDataset,
    DITOLVISDataset,
    DITOObjects365Dataset,
)
from dito.datasets.convert import convert_file
from dito.models.text.name_files import read_names


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
    """Run a tool in this process, as its command line would."""
    monkeypatch.setattr(sys, 'argv', ['dito'])

    def run(*command):
        code = dito(command)
        printed = capsys.readouterr()
        assert code == (2 if printed.err else 0), printed.err
        return printed.out or printed.err

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
    printed = run_tool('lvis2ov', lvis_file, '--drop-empty')
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
    for split, number in (('base', 48), ('novel', 17), ('all', 65)):
        printed = run_tool('coco2ov', source, '--classes', split)
        assert f'{number} annotations, {number} categories' in printed
        small = DITOCocoDataset(
            ann_file=str(tmp_path / f'val_ov_{split}.json'), split=split
        )
        whole = DITOCocoDataset(ann_file=source, split=split)
        assert small[0] == whole[0]
        assert small.metainfo == whole.metainfo
    printed = run_tool(
        'coco2ov', str(tmp_path / 'no.json'), '--classes', 'all'
    )
    assert printed.startswith('error: ')
    assert 'no.json does not exist' in printed


def test_lvis_categories_alone(tmp_path, run_tool):
    """All 1,203, as published: with synonyms and frequency."""
    names = LVISV1Dataset.METAINFO['classes']
    frequency = ['r'] * 337 + ['c'] * 461 + ['f'] * 405
    categories = make_categories(names, frequency)
    for category in categories:
        category.update(synonyms=[category['name'], 'thing'], image_count=1)
    source = write_json(
        tmp_path / 'lvis_v1_val.json',
        dict(images=[], annotations=[], categories=categories[::-1]),
    )
    printed = run_tool('lvis2ov', source, '--categories')
    out = tmp_path / 'lvis_v1_val_categories.json'
    assert printed == (
        f'{out} 1203 categories: 405 frequent, 461 common, 337 rare\n'
    )
    assert json.loads(out.read_text()) == categories
    found = read_names(out)
    assert tuple(found.names) == names and len(found.rare) == 337
    assert found.synonyms[names[0]] == ['thing']
    source = write_json(
        tmp_path / 'coco.json',
        dict(images=[], categories=make_categories(['a'])),
    )
    assert 'no LVIS file' in run_tool('lvis2ov', source, '--categories')


def write_o365(tmp_path, version, names):
    folders = dict(v1='val', v2='images/v2/patch16')
    files = ['objects365_v2_00908726.jpg', 'objects365_v2_00908727.jpg']
    images = [
        dict(make_image(i + 1), file_name=f'{folders[version]}/{file}')
        for i, file in enumerate(files)
    ]
    annotations = [
        make_annotation(i + 1, 1 + i % 2, i + 1) for i in range(365)
    ]
    return write_json(
        tmp_path / f'{version}.json',
        dict(
            images=images,
            annotations=annotations,
            categories=make_categories(names)[::-1],
        ),
    )


@pytest.mark.parametrize('version', ['v1', 'v2'])
def test_objects365_tool(tmp_path, run_tool, version):
    data = dict(v1=Objects365V1Dataset, v2=Objects365V2Dataset)[version]
    names = data.METAINFO['classes']
    source = write_o365(tmp_path, version, names)
    printed = run_tool('fix-objects365', source)
    renamed = dict(v1=4, v2=19)[version]
    assert len(printed.splitlines()) == renamed + 1
    assert f'365 categories, {renamed} renamed' in printed
    out = tmp_path / f'{version}_fixed.json'
    whole = DITOObjects365Dataset(ann_file=source, version=version)
    fixed = DITOObjects365Dataset(ann_file=str(out), version=version)
    assert fixed.metainfo['classes'] == whole.metainfo['classes']
    assert list(fixed) == list(whole)
    assert len(fixed) == dict(v1=2, v2=1)[version]
    content = json.loads(out.read_text())
    assert [cat['id'] for cat in content['categories']] == [*range(1, 366)]
    first = content['images'][0]['file_name']
    assert (
        first
        == dict(
            v1='val/objects365_v2_00908726.jpg',
            v2='patch16/objects365_v2_00908727.jpg',
        )[version]
    )


def test_objects365_tool_refuses_other_sets(lvis_file, run_tool):
    printed = run_tool('fix-objects365', lvis_file)
    assert 'the 3 categories of' in printed and 'v1 or v2' in printed


def test_a_damaged_file_is_named(tmp_path, run_tool):
    path = tmp_path / 'cut.json'
    path.write_text('{"images": [')
    assert 'cut.json is not valid JSON' in run_tool('lvis2ov', str(path))
    path.write_text('[]')
    assert "has no ['images', 'categories']" in run_tool('lvis2ov', str(path))
    assert [p.name for p in tmp_path.iterdir()] == ['cut.json']
