# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from detection_files import (
    make_annotation,
    make_categories,
    make_image,
    write_json,
)
from mmdet.datasets import CocoDataset

from dito.datasets import DITOCocoDataset
from dito.datasets.ov_dataset import COCO_BASE_CLASSES, COCO_NOVEL_CLASSES

COCO_NAMES = CocoDataset.METAINFO['classes']


@pytest.fixture
def coco_file(tmp_path):
    """One object of each of the 80 classes, categories shuffled."""
    categories = make_categories(COCO_NAMES)
    order = np.random.default_rng(0).permutation(80)
    return write_json(
        tmp_path / 'instances.json',
        dict(
            images=[make_image(1)],
            annotations=[make_annotation(i + 1, 1, i + 1) for i in range(80)],
            categories=[categories[i] for i in order],
        ),
    )


def names_in(dataset):
    classes = dataset.metainfo['classes']
    return [classes[item['bbox_label']] for item in dataset[0]['instances']]


def test_split_has_48_and_17_classes_of_coco():
    assert len(COCO_BASE_CLASSES) == 48
    assert len(COCO_NOVEL_CLASSES) == 17
    both = set(COCO_BASE_CLASSES) | set(COCO_NOVEL_CLASSES)
    assert len(both) == 65
    assert both <= set(COCO_NAMES)


def test_training_set_has_base_classes_only(coco_file):
    dataset = DITOCocoDataset(ann_file=coco_file, split='base')
    assert dataset.metainfo['classes'] == COCO_BASE_CLASSES
    assert dataset.metainfo['novel_classes'] == ()
    assert sorted(names_in(dataset)) == sorted(COCO_BASE_CLASSES)
    assert names_in(dataset) == [
        name for name in COCO_NAMES if name in COCO_BASE_CLASSES
    ]


def test_evaluation_set_has_65_classes(coco_file):
    dataset = DITOCocoDataset(ann_file=coco_file)
    assert dataset.metainfo['classes'][:48] == COCO_BASE_CLASSES
    assert dataset.metainfo['base_classes'] == COCO_BASE_CLASSES
    assert dataset.metainfo['novel_classes'] == COCO_NOVEL_CLASSES
    assert names_in(dataset) == [
        name
        for name in COCO_NAMES
        if name in COCO_BASE_CLASSES + COCO_NOVEL_CLASSES
    ]


def test_base_split_of_a_file_that_holds_base_classes_only(tmp_path):
    path = write_json(
        tmp_path / 'seen.json',
        dict(
            images=[make_image(1)],
            annotations=[make_annotation(1, 1, 48)],
            categories=make_categories(COCO_BASE_CLASSES),
        ),
    )
    dataset = DITOCocoDataset(ann_file=path, split='base')
    assert names_in(dataset) == ['toothbrush']
    with pytest.raises(ValueError, match="17 of 65 .*'airplane'"):
        DITOCocoDataset(ann_file=path)


def test_own_classes_replace_the_coco_split(coco_file):
    classes = ('hair drier', 'cat', 'person')
    dataset = DITOCocoDataset(
        ann_file=coco_file, metainfo=dict(classes=classes)
    )
    assert dataset.metainfo['base_classes'] == classes
    assert names_in(dataset) == ['person', 'cat', 'hair drier']
    dataset = DITOCocoDataset(
        ann_file=coco_file,
        split='base',
        metainfo=dict(classes=classes, novel_classes=('cat',)),
    )
    assert names_in(dataset) == ['person', 'hair drier']
    with pytest.raises(ValueError, match='needs base_classes or novel'):
        DITOCocoDataset(
            ann_file=coco_file, split='base', metainfo=dict(classes=classes)
        )
