# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of tools/test.py --data: any set in COCO's or LVIS' format."""

import json
from pathlib import Path

import pytest
import torch
from mmdet.datasets import Objects365V1Dataset
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from test_datasets.detection_files import (
    make_annotation,
    make_categories,
    make_image,
    write_images,
    write_json,
)
from tiny_api import detector_config, write_annotations
from tiny_api import write_images as write_pictures

from dito.cli import common, transfer
from dito.cli import test as test_tool
from dito.cli.options import parse
from dito.models import Vocabulary

ROOT = Path(__file__).parents[2]
# Words that the tower of tiny_api knows.
NAMES = ['wheel', 'red umbrella', 'blue kite', 'anchor']


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    """Config and checkpoint of a detector that has seen two classes."""
    folder = tmp_path_factory.mktemp('detector')
    cfg = detector_config(
        folder, write_annotations(folder, write_pictures(folder))
    )
    cfg.dump(folder / 'config.py')
    torch.manual_seed(0)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    torch.save(
        dict(
            state_dict=model.state_dict(),
            meta=dict(
                dataset_meta=dict(
                    CLASSES=('red umbrella', 'anchor'), novel_classes=()
                )
            ),
        ),
        folder / 'weights.pth',
    )
    model.build_vocabulary(NAMES, templates=['a photo of {}'])
    model.vocabulary.save(folder / 'names.safetensors')
    return folder


def write_data(folder, names=NAMES, frequency=None, first_id=7, **extra):
    """Three pictures and a box of each class, categories backwards."""
    images = [make_image(i) for i in (1, 2, 3)]
    if frequency is None:
        for image in images:
            image.pop('neg_category_ids')
            image.pop('not_exhaustive_category_ids')
    write_images(folder / 'pictures', images)
    annotations = [
        make_annotation(i + 1, 1 + i % 3, first_id + i, iscrowd=0, **extra)
        for i in range(len(names))
    ]
    return write_json(
        folder / 'own.json',
        dict(
            images=images,
            annotations=annotations,
            categories=make_categories(names, frequency, first_id)[::-1],
        ),
    )


@pytest.fixture
def run(detector, tmp_path, monkeypatch, capsys):
    """Run the tool on tmp_path/own.json; its exit code and figures."""
    monkeypatch.chdir(tmp_path)

    def call(*argv, images='pictures'):
        call.count = getattr(run, 'count', 0) + 1
        run.count = call.count
        capsys.readouterr()
        code = test_tool.main(
            [
                str(detector / 'config.py'),
                str(detector / 'weights.pth'),
                '--data',
                'own.json',
                '--images',
                images,
                *argv,
                '--cfg-options',
                f'experiment_name=transfer{call.count}',
            ]
        )
        figures = sorted((tmp_path / 'work_dirs').glob('*/*/[0-9]*.json'))
        if code:
            return code, capsys.readouterr().err
        return code, json.loads(figures[-1].read_text())

    return call


def classes_of_config(detector, *argv, checkpoint='weights.pth'):
    """What the config becomes."""
    args = parse(
        'test',
        [
            str(detector / 'config.py'),
            str(detector / checkpoint),
            '--data',
            'own.json',
            '--images',
            'pictures',
            *argv,
        ],
    )
    cfg = common.load_config(args.config)
    transfer.use_data(cfg, args)
    return cfg


def test_one_command_evaluates_a_set_by_its_names(run, tmp_path):
    write_data(tmp_path)
    code, figures = run()
    assert code == 0
    assert 0 <= figures['coco/bbox_AP'] <= 1
    assert {'coco/bbox_AP50', 'coco/bbox_novel_AP50'} <= set(figures)
    assert [p.name for p in (tmp_path / 'work_dirs').iterdir()] == [
        'config_on_own'
    ]


def test_a_vocabulary_file_gives_the_same(run, detector, tmp_path):
    write_data(tmp_path)
    _, figures = run()
    code, again = run('--vocabulary', str(detector / 'names.safetensors'))
    assert code == 0
    same = {k: v for k, v in figures.items() if k.startswith('coco/')}
    assert same and same == {k: again[k] for k in same}


def test_a_vocabulary_of_other_names_is_refused(run, tmp_path):
    write_data(tmp_path)
    rows = torch.eye(16)
    Vocabulary(
        ('wheel', 'dog'),
        rows[:2],
        rows[2],
        torch.zeros(2, dtype=torch.bool),
        '',
    ).save('v.safetensors')
    code, text = run('--vocabulary', 'v.safetensors')
    assert code == 2
    assert 'v.safetensors does not go with the data set' in text
    assert '3 names' in text and "'red umbrella'" in text


def test_labels_follow_names_in_any_order(detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    cfg = classes_of_config(detector)
    data = cfg.test_dataloader.dataset
    assert data.metainfo.classes == NAMES
    # What the checkpoint was not trained on.
    assert data.metainfo.novel_classes == ['wheel', 'blue kite']
    assert cfg.test_evaluator.metric == ['bbox', 'segm']
    assert [step.type for step in data.pipeline][0] == 'DITOLoadImageFromFile'


@pytest.mark.parametrize(
    'given, novel',
    [
        ('none', []),
        ('all', NAMES),
        ('anchor, Blue_kite', ['anchor', 'blue kite']),
        ('names.txt', ['wheel']),
    ],
)
def test_novel_classes_can_be_chosen(
    detector, tmp_path, monkeypatch, given, novel
):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    Path('names.txt').write_text('wheel\n')
    cfg = classes_of_config(detector, '--novel', given)
    assert cfg.test_dataloader.dataset.metainfo.novel_classes == novel


def test_lvis_files_are_evaluated_by_the_rules_of_lvis(run, tmp_path):
    write_data(tmp_path, frequency='rcff')
    code, figures = run()
    assert code == 0
    assert {'lvis/bbox_APr', 'lvis/segm_AP', 'lvis/bbox_novel_AP50'} <= set(
        figures
    )


def test_objects365_is_recognised(detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path, Objects365V1Dataset.METAINFO['classes'], first_id=1)
    cfg = classes_of_config(detector)
    data = cfg.test_dataloader.dataset
    assert (data.type, data.version) == ('DITOObjects365Dataset', 'v1')
    assert 'pineapple' in data.metainfo.classes
    assert 'pine apple' not in data.metainfo.classes


def test_boxes_without_area_are_evaluated(run, tmp_path):
    path = Path(write_data(tmp_path))
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        for key in ('area', 'iscrowd', 'segmentation'):
            del annotation[key]
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    code, figures = run()
    assert code == 0 and 'coco/bbox_AP' in figures
    assert 'coco/segm_AP' not in figures
    assert path.read_bytes() == before
    work_dir = tmp_path / 'work_dirs' / 'config_on_own'
    assert not list(work_dir.rglob('own.json'))


def change(tmp_path, function):
    path = Path(write_data(tmp_path))
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    'fault, message',
    [
        (lambda c: c['categories'][0].update(name='wheel'), 'appears twice'),
        (
            lambda c: c['categories'][0].update(name='Blue_kite'),
            'appear more than once',
        ),
        (
            lambda c: c['annotations'][0].update(category_id=99),
            'the category_id 99 of 1 annotation is not in categories',
        ),
        (
            lambda c: c['annotations'][0].update(bbox=[1, 2]),
            'four finite numbers',
        ),
        (
            lambda c: c['images'][0].update(file_name='gone.jpg'),
            "1 of 3 images of own.json are not in pictures: 'gone.jpg'",
        ),
        (lambda c: c.pop('categories'), "has no ['categories']"),
    ],
)
def test_faults_end_in_one_sentence(run, tmp_path, fault, message):
    change(tmp_path, fault)
    code, text = run()
    assert code == 2 and message in text
    assert len([n for n in text.splitlines() if n.startswith('error')]) == 1


def test_wrong_paths_and_options(run, detector, tmp_path, capsys):
    assert 'own.json does not exist' in run()[1]
    write_data(tmp_path)
    assert 'nowhere does not exist' in run(images='nowhere')[1]
    assert '--novel has 1 names' in run('--novel', 'zebra')[1]
    base = [str(detector / 'config.py'), str(detector / 'weights.pth')]
    for argv in (
        ['--data', 'own.json'],
        ['--novel', 'all'],
        ['--vocabulary', 'v.safetensors'],
    ):
        with pytest.raises(SystemExit):
            test_tool.main([*base, *argv])


def test_config_of_the_transfer_experiment():
    """Test data of configs/dito_vitl_lvis_o365.py: 365 names, no masks."""
    cfg = Config.fromfile(ROOT / 'configs' / 'dito_vitl_lvis_o365.py')
    data = cfg.test_dataloader.dataset
    assert data == cfg.val_dataloader.dataset
    assert data.type == 'DITOObjects365Dataset' and data.version == 'v1'
    assert data.ann_file == 'annotations/objects365_val.json'
    assert cfg.test_evaluator.ann_file == data.data_root + data.ann_file
    assert cfg.model.roi_head.mask_head is None
    assert cfg.train_dataloader.dataset.type == 'DITOLVISDataset'
    assert cfg.train_dataloader.dataset.data_root == 'data/lvis_v1/'
