# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from detection_files import (
    make_annotation,
    make_categories,
    make_image,
    write_json,
)
from mmdet.datasets import Objects365V1Dataset, Objects365V2Dataset

from dito.datasets import DITOObjects365Dataset

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
    assert dataset.metainfo['classes'] == V1_NAMES
    assert dataset.metainfo['base_classes'] == V1_NAMES
    assert dataset.metainfo['novel_classes'] == ()


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
