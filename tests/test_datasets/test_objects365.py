# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from detection_files import (
    make_annotation,
    make_categories,
    make_image,
    write_json,
)
from mmdet.datasets import Objects365V1Dataset, Objects365V2Dataset

from dito.datasets import DITOObjects365Dataset
from dito.datasets.objects365 import (
    O365_SAME_IN_BOTH,
    O365_V1_REPAIRS,
    O365_V2_REPAIRS,
    find_o365_version,
    repair_o365_name,
)
from dito.evaluation import DITOCocoMetric

V1_NAMES = Objects365V1Dataset.METAINFO['classes']
V2_NAMES = Objects365V2Dataset.METAINFO['classes']


def write_file(tmp_path, names, order, images=None):
    categories = make_categories(names)
    return write_json(
        tmp_path / f'o365_{len(list(tmp_path.iterdir()))}.json',
        dict(
            images=images or [make_image(1)],
            annotations=[
                make_annotation(i + 1, 1, i + 1) for i in range(len(names))
            ],
            categories=[categories[i] for i in order],
        ),
    )


@pytest.mark.parametrize('names', [V1_NAMES, V2_NAMES])
def test_365_classes_by_name_in_files_of_different_order(tmp_path, names):
    """Train and val list categories differently; labels must agree."""
    rng = np.random.default_rng(0)
    # Files in circulation differ in stray blanks and case, too.
    in_file = [name.strip() for name in names]
    classes = tuple(str(name) for name in rng.permutation(names))
    labels = []
    for order in (range(365), rng.permutation(365)):
        dataset = DITOObjects365Dataset(
            ann_file=write_file(tmp_path, in_file, order),
            metainfo=dict(classes=classes),
        )
        assert dataset.metainfo['classes'] == classes
        labels.append([i['bbox_label'] for i in dataset[0]['instances']])
    assert labels[0] == labels[1]
    assert [classes[label] for label in labels[0]] == list(names)


def test_classes_default_to_the_file(tmp_path):
    dataset = DITOObjects365Dataset(
        ann_file=write_file(tmp_path, V1_NAMES, range(364, -1, -1))
    )
    names = tuple(repair_o365_name(name) for name in V1_NAMES)
    assert dataset.metainfo['classes'] == names
    assert dataset.metainfo['base_classes'] == names
    assert dataset.metainfo['novel_classes'] == ()
    assert dataset.metainfo['names_in_file'] == V1_NAMES
    plain = DITOObjects365Dataset(
        ann_file=dataset.ann_file, repair_names=False
    )
    assert plain.metainfo['classes'] == V1_NAMES


@pytest.mark.parametrize(
    'version, names, repairs',
    [
        ('v1', V1_NAMES, O365_V1_REPAIRS),
        ('v2', V2_NAMES, O365_V2_REPAIRS),
    ],
)
def test_repairs_are_of_published_names_and_unique(version, names, repairs):
    assert set(repairs) <= set(names)
    repaired = [repair_o365_name(name) for name in names]
    assert len({name.casefold() for name in repaired}) == 365
    assert all(name == name.strip() for name in repaired)
    changed = {a: b for a, b in zip(names, repaired, strict=True) if a != b}
    assert changed == repairs
    assert [repair_o365_name(name) for name in repaired] == repaired
    for spelling in (names, repaired):
        assert find_o365_version(spelling) == version


def test_both_versions_are_paired_by_existing_names():
    v1 = {repair_o365_name(name) for name in V1_NAMES}
    v2 = {repair_o365_name(name) for name in V2_NAMES}
    assert set(O365_SAME_IN_BOTH) <= v1
    assert set(O365_SAME_IN_BOTH.values()) <= v2
    assert find_o365_version(['cat', 'dog']) == ''


def test_repaired_names_are_evaluated_against_the_published_file(tmp_path):
    ann_file = write_file(tmp_path, V2_NAMES, range(365))
    dataset = DITOObjects365Dataset(
        ann_file=ann_file, metainfo=dict(classes=('Pig', 'Camel'))
    )
    label = dataset.metainfo['classes'].index('Camel')
    pred = dict(
        bboxes=torch.tensor([[4.0, 5.0, 24.0, 15.0]]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([label]),
    )
    metric = DITOCocoMetric(ann_file=ann_file)
    metric.dataset_meta = dataset.metainfo
    metric.process(
        {}, [dict(img_id=1, ori_shape=(48, 64), pred_instances=pred)]
    )
    # The camel is found, the pig is not.
    assert metric.evaluate(1)['coco/bbox_AP'] == pytest.approx(0.5)


def test_v2_paths_and_missing_images(tmp_path):
    names = [
        'images/v1/patch8/objects365_v1_00420917.jpg',
        'images/v2/patch16/objects365_v2_00908726.jpg',
    ]
    images = [
        dict(make_image(i + 1), file_name=name) for i, name in enumerate(names)
    ]
    ann_file = write_file(tmp_path, ['a'], [0], images)
    v2 = DITOObjects365Dataset(
        ann_file=ann_file, version='v2', data_prefix=dict(img='train')
    )
    assert [info['img_path'] for info in v2] == [
        'train/patch8/objects365_v1_00420917.jpg'
    ]
    v1 = DITOObjects365Dataset(ann_file=ann_file)
    assert [info['img_path'] for info in v1] == names
    with pytest.raises(ValueError, match="not 'v3'"):
        DITOObjects365Dataset(ann_file=ann_file, version='v3')
