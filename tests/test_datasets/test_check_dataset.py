# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of dito check-dataset, one fault at a time."""

import copy
import json
import shutil

import pytest
import torch
from detection_files import (
    make_annotation,
    make_categories,
    make_image,
    write_images,
    write_json,
)
from mmdet.datasets import CocoDataset, LVISV1Dataset, Objects365V2Dataset

from dito.cli.check_dataset import main
from dito.datasets import DITOLVISDataset
from dito.models import Vocabulary

CONFIG = """
dataset = dict(type='DITOLVISDataset', data_root='{root}/',
               data_prefix=dict(img='images/'), pipeline=[])
train_dataloader = dict(dataset=dict(
    type='RepeatDataset', times=2,
    dataset=dict(dataset, split='base', ann_file='train.json')))
val_dataloader = dict(dataset=dict(
    dataset, ann_file='val.json', test_mode=True))
test_dataloader = val_dataloader
custom_hooks = [dict(type='DITOVocabularyHook')]
"""


def part(first_image, first_ann):
    """Two images and three boxes; category c is rare."""
    images = [make_image(first_image + i) for i in range(2)]
    return dict(
        images=images,
        annotations=[
            make_annotation(first_ann + i, first_image + i % 2, i + 1)
            for i in range(3)
        ],
        categories=make_categories(['a', 'b', 'c'], 'fcr'),
    )


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    write_images(folder, [make_image(i) for i in (1, 2, 11, 12)])
    return folder


class Folder:
    """A small data set with a config, to be broken by a test."""

    def __init__(self, root, pictures):
        self.root = root
        self.train, self.val = part(1, 1), part(11, 11)
        shutil.copytree(pictures, root / 'images')
        self.text = CONFIG.format(root=root)

    def check(self, capsys, *argv):
        """Run the tool; its exit code, kinds of problems and of notes."""
        write_json(self.root / 'train.json', self.train)
        write_json(self.root / 'val.json', self.val)
        config = self.root / 'config.py'
        config.write_text(self.text)
        found = self.root / 'found.json'
        capsys.readouterr()
        code = main([str(config), '--json', str(found), *argv])
        self.printed = capsys.readouterr().out
        report = json.loads(found.read_text())
        self.sets = {one['name']: one for one in report['sets']}
        findings = [f for one in report['sets'] for f in one['findings']]
        assert report['ok'] == (code == 0)
        problems = {f['kind'] for f in findings if not f['note']}
        return code, problems, {f['kind'] for f in findings if f['note']}


@pytest.fixture
def folder(tmp_path, pictures):
    return Folder(tmp_path, pictures)


def test_a_good_set_passes_and_is_counted(folder, capsys):
    code, problems, notes = folder.check(capsys)
    assert (code, problems) == (0, set())
    assert notes == {'left_out_boxes'}
    assert 'No problems.' in folder.printed
    train, val = folder.sets['train'], folder.sets['val, test']
    assert train['counts'] == dict(
        images=2,
        annotations=3,
        categories=3,
        classes=2,
        used_boxes=2,
        base_classes=2,
        base_boxes=2,
        novel_classes=1,
        novel_boxes=1,
        unknown_classes=0,
        unknown_boxes=0,
    )
    assert val['counts']['classes'] == 3 and val['counts']['used_boxes'] == 3


def duplicate_category(folder):
    # Two names for the file, one for the text tower.
    folder.train['categories'].append(dict(id=4, name='A ', frequency='f'))


def duplicate_id(folder):
    folder.train['categories'].append(dict(id=3, name='d', frequency='f'))


def nameless_category(folder):
    folder.val['categories'].append(dict(id=4, frequency='f'))


def id_gaps(folder):
    for content in (folder.train, folder.val):
        content['categories'][2]['id'] = 300
        content['annotations'][2]['category_id'] = 300
        for category in content['categories']:
            del category['frequency']
    folder.text = folder.text.replace(
        'pipeline=[]', "pipeline=[], metainfo=dict(novel_classes=['c'])"
    )


def unknown_category(folder):
    folder.val['annotations'][0]['category_id'] = 77


def unknown_image(folder):
    folder.val['annotations'][0]['image_id'] = 77


def duplicate_annotation(folder):
    folder.val['annotations'].append(folder.val['annotations'][0])


def duplicate_image(folder):
    folder.val['images'].append(folder.val['images'][0])


def bad_image(folder):
    del folder.val['images'][0]['width']


def listed_ids(folder):
    folder.val['images'][0]['neg_category_ids'] = [9]


def bad_box(folder):
    folder.val['annotations'][0]['bbox'] = [1, 2, 3]


def zero_area_box(folder):
    folder.val['annotations'][0]['bbox'] = [4, 5, 0, 10]


def box_outside_image(folder):
    folder.val['annotations'][0]['bbox'] = [64, 5, 10, 10]


def bad_mask(folder):
    folder.val['annotations'][0]['segmentation'] = [[1, 2, 3, 4]]


def mask_of_other_size(folder):
    folder.val['annotations'][0]['segmentation'] = dict(
        size=[64, 48], counts=''
    )


def empty_mask(folder):
    folder.val['annotations'][0]['segmentation'] = dict(
        size=[48, 64], counts=[3072]
    )


def missing_mask(folder):
    folder.text = folder.text.replace(
        'pipeline=[]',
        """pipeline=[dict(
        type='LoadAnnotations', with_bbox=True, with_mask=True)]""",
    )
    folder.train['annotations'][1]['segmentation'] = None


def masks_to_evaluate(folder):
    folder.text += f"""
val_evaluator = dict(type='DITOLVISMetric', ann_file='{folder.root}/val.json',
                     metric=['bbox', 'segm'])
"""
    del folder.val['annotations'][1]['segmentation']


def metric_form(folder):
    masks_to_evaluate(folder)
    folder.val = part(11, 11)
    folder.val['images'][0]['neg_category_ids'] = None


def bad_annotation(folder):
    del folder.val['annotations'][0]['category_id']


def bad_flag(folder):
    folder.val['annotations'][0]['iscrowd'] = 'perhaps'


def far_vertex(folder):
    folder.val['annotations'][0]['segmentation'] = [[2, 8, 1e9, 8, 22, 32]]


def missing_class(folder):
    folder.text = folder.text.replace(
        'pipeline=[]', "pipeline=[], metainfo=dict(classes=['a', 'zebra'])"
    )


def bad_classes(folder):
    folder.text = folder.text.replace(
        'pipeline=[]', "pipeline=[], metainfo=dict(classes=['a', 'a'])"
    )


def class_order(folder):
    folder.text = folder.text.replace('DITOLVISDataset', 'CocoDataset')
    folder.text = folder.text.replace("split='base', ", '')
    folder.text = folder.text.replace(
        'pipeline=[]', "pipeline=[], metainfo=dict(classes=['b', 'a', 'c'])"
    )


def novel_in_training(folder):
    folder.text = folder.text.replace("split='base'", "split='all'")


def wrong_split(folder):
    folder.text = folder.text.replace("'train.json'", "'train_base.json'")
    write_json(folder.root / 'train_base.json', folder.train)


def missing_image(folder):
    (folder.root / 'images' / '000011.jpg').unlink()


def undecodable_image(folder):
    path = folder.root / 'images' / '000011.jpg'
    path.write_bytes(path.read_bytes()[:20])


def image_size(folder):
    folder.val['images'][0].update(width=48, height=64)


def shared_image(folder):
    folder.val['images'][0]['file_name'] = '000001.jpg'


def vocabulary(folder):
    rows = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
    words = Vocabulary(
        ('a', 'b'), rows[:2], rows[2], torch.zeros(2, dtype=torch.bool), ''
    )
    words.save(folder.root / 'words.safetensors')
    folder.text = folder.text.replace(
        "VocabularyHook'",
        f"VocabularyHook', test='{folder.root}/words.safetensors'",
    )


def no_boxes(folder):
    folder.train['annotations'] = folder.train['annotations'][2:]


def metric_file(folder):
    folder.text += f"""
val_evaluator = dict(type='DITOLVISMetric', ann_file='{folder.root}/val.json')
test_evaluator = [val_evaluator, dict(type='DITORegionMetric'), dict(
    type='DITOCocoMetric', ann_file='{folder.root}/train.json')]
"""


def bad_file(folder):
    folder.text = folder.text.replace("'val.json'", "'gone.json'")


FAULTS = [
    duplicate_category,
    duplicate_id,
    nameless_category,
    id_gaps,
    unknown_category,
    unknown_image,
    duplicate_annotation,
    duplicate_image,
    bad_image,
    listed_ids,
    bad_box,
    zero_area_box,
    box_outside_image,
    bad_mask,
    mask_of_other_size,
    empty_mask,
    missing_mask,
    masks_to_evaluate,
    metric_form,
    bad_annotation,
    bad_flag,
    far_vertex,
    missing_class,
    bad_classes,
    class_order,
    novel_in_training,
    wrong_split,
    missing_image,
    undecodable_image,
    image_size,
    shared_image,
    vocabulary,
    no_boxes,
    metric_file,
    bad_file,
]
# Where a fault is not named after the kind that must be found, or where it
# keeps the classes from being compared, too.
EXPECTED = dict(
    duplicate_id={'duplicate_category'},
    nameless_category={'bad_category'},
    mask_of_other_size={'bad_mask'},
    masks_to_evaluate={'missing_mask'},
    far_vertex={'bad_mask'},
)


@pytest.mark.parametrize('fault', FAULTS, ids=lambda f: f.__name__)
def test_a_fault_is_found_and_nothing_else(folder, capsys, fault):
    fault(folder)
    code, problems, _ = folder.check(capsys)
    assert code == 1
    expected = EXPECTED.get(fault.__name__, {fault.__name__})
    assert problems == expected, folder.printed
    assert all(kind in folder.printed for kind in expected)
    number = sum(
        not finding['note']
        for one in folder.sets.values()
        for finding in one['findings']
    )
    what = 'problem' if number == 1 else 'problems'
    assert f'\n{number} {what}: ' in folder.printed


def test_what_loading_leaves_out_is_counted_in_its_words(folder, capsys):
    boxes = [(4, 5, 0, 10), (4, 5, 0.5, 10), (64, 5, 9, 9), (4, 5, 9, 9)]
    for i, box in enumerate(boxes):
        folder.train['annotations'].append(
            make_annotation(20 + i, 1, 1, bbox=box, segmentation=[])
        )
    folder.train['annotations'][-1]['ignore'] = 'true'
    folder.train['annotations'][0]['iscrowd'] = '1'
    code, problems, notes = folder.check(capsys)
    assert (code, problems) == (1, {'zero_area_box', 'box_outside_image'})
    (left,) = [
        f
        for f in folder.sets['train']['findings']
        if f['kind'] == 'left_out_objects'
    ]
    dataset = DITOLVISDataset(
        ann_file=str(folder.root / 'train.json'), split='base'
    )
    assert left['number'] == 4 == sum(dataset.num_skipped.values())
    assert sorted(left['examples']) == sorted(
        f'{number} {reason}' for reason, number in dataset.num_skipped.items()
    )
    boxes = [
        i
        for image in dataset
        for i in image['instances']
        if not i['ignore_flag']
    ]
    assert folder.sets['train']['counts']['used_boxes'] == len(boxes) == 1


def test_boxes_alone_are_fine_without_masks_in_the_pipeline(folder, capsys):
    for ann in folder.train['annotations'] + folder.val['annotations']:
        del ann['segmentation']
    assert folder.check(capsys)[:2] == (0, set())
    folder.text = folder.text.replace(
        'pipeline=[]',
        """pipeline=[dict(
        type='LoadAnnotations', with_bbox=True, with_mask=True)]""",
    )
    assert folder.check(capsys)[:2] == (1, {'missing_mask'})


def test_known_faults_can_be_allowed(folder, capsys):
    zero_area_box(folder)
    code, problems, _ = folder.check(capsys, '--allow', 'zero_area_box')
    assert (code, problems) == (0, {'zero_area_box'})


def test_number_of_decoded_images(folder, capsys):
    undecodable_image(folder)
    code, problems, notes = folder.check(capsys, '--max-images', '0')
    assert (code, problems) == (0, set()) and 'unchecked_images' in notes
    code, problems, _ = folder.check(capsys, '--max-images', '1')
    assert (code, problems) == (1, {'undecodable_image'})


def test_what_benchmarks_have_is_only_counted(folder, capsys):
    for content in (folder.train, folder.val):
        # A base-only LVIS file keeps its ids; boxes reach over the edge.
        content['categories'][1]['id'] = 30
        content['annotations'][1]['category_id'] = 30
    folder.train['annotations'][0].update(
        bbox=[-5, 5, 20, 10],
        segmentation=dict(size=[48, 64], counts=[0, 480, 2592]),
    )
    code, problems, notes = folder.check(capsys)
    assert (code, problems) == (0, set()), folder.printed
    assert notes == {
        'left_out_boxes',
        'id_gaps',
        'box_over_edge',
        'mixed_masks',
    }


def full_size(tmp_path, capsys, names, config, ids=None, frequency=None):
    """Check a file with all names of a benchmark, in shuffled order."""
    categories = make_categories(names, frequency)
    for category, number in zip(categories, ids or (), strict=False):
        category['id'] = number
    annotations = [
        make_annotation(i + 1, 1, category['id'])
        for i, category in enumerate(categories)
    ]
    content = dict(
        images=[make_image(1)],
        annotations=annotations,
        categories=categories[::-1],
    )
    write_json(tmp_path / 'all.json', content)
    write_images(tmp_path, content['images'])
    path = tmp_path / 'config.py'
    path.write_text(
        'test_dataloader = dict(dataset=dict(pipeline=[], '
        f"data_root='{tmp_path}/', ann_file='all.json', "
        f'data_prefix=dict(img=""), test_mode=True, {config}))'
    )
    code = main([str(path), '--json', str(tmp_path / 'found.json')])
    report = json.loads((tmp_path / 'found.json').read_text())
    return code, report['sets'][0]


def test_lvis_with_all_its_names(tmp_path, capsys):
    names = LVISV1Dataset.METAINFO['classes']
    frequency = ['r'] * 337 + ['c'] * 461 + ['f'] * 405
    code, found = full_size(
        tmp_path, capsys, names, "type='DITOLVISDataset'", frequency=frequency
    )
    counts = found['counts']
    assert code == 0 and found['findings'] == []
    assert (counts['base_classes'], counts['novel_classes']) == (866, 337)


def test_coco_with_all_its_names(tmp_path, capsys):
    # COCO's own ids, with its gaps.
    gone = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    ids = [i for i in range(1, 91) if i not in gone]
    code, found = full_size(
        tmp_path,
        capsys,
        CocoDataset.METAINFO['classes'],
        "type='DITOCocoDataset'",
        ids,
    )
    assert code == 0
    counts = {k: v for k, v in found['counts'].items() if 'classes' in k}
    assert counts == dict(
        classes=65, base_classes=48, novel_classes=17, unknown_classes=15
    )
    kinds = {f['kind']: f['number'] for f in found['findings']}
    assert kinds == dict(id_gaps=10, unused_category=15, left_out_boxes=15)


def test_objects365_with_all_its_names(tmp_path, capsys):
    code, found = full_size(
        tmp_path,
        capsys,
        Objects365V2Dataset.METAINFO['classes'],
        "type='DITOObjects365Dataset'",
    )
    assert code == 0 and found['counts']['classes'] == 365
    kinds = {f['kind']: f['number'] for f in found['findings']}
    assert kinds == dict(respelt_class=19)


def test_files_without_a_config(folder, capsys):
    write_json(folder.root / 'own.json', folder.val)
    argv = [
        '--data',
        str(folder.root / 'own.json'),
        '--images',
        str(folder.root / 'images'),
    ]
    assert main(argv) == 0
    broken = copy.deepcopy(folder.val)
    broken['annotations'][0]['category_id'] = 9
    write_json(folder.root / 'own.json', broken)
    assert main(argv) == 1
    assert 'category_id 9 of 1 annotation' in capsys.readouterr().out


def test_nothing_to_check(tmp_path, capsys):
    path = tmp_path / 'config.py'
    path.write_text('model = dict()')
    assert main([str(path)]) == 2
    assert 'only detection sets can be checked' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])
    with pytest.raises(SystemExit):
        main([str(path), '--data', 'x.json'])
