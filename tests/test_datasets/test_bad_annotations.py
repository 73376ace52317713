# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What the data sets say about annotation files that are wrong."""

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from detection_files import (
    make_annotation,
    make_categories,
    make_image,
    write_images,
    write_json,
)
from mmdet.datasets.transforms import LoadAnnotations

from dito.datasets import DITOCocoDataset, DITOLoadImageFromFile


def write(tmp_path, annotations=(), images=None, categories=None):
    return write_json(
        tmp_path / 'ann.json',
        dict(
            images=images or [make_image(1)],
            annotations=list(annotations),
            categories=categories or make_categories(['a', 'b']),
        ),
    )


def load(ann_file, **kwargs):
    kwargs.setdefault('metainfo', dict(classes=('a', 'b')))
    return DITOCocoDataset(ann_file=ann_file, **kwargs)


@pytest.mark.parametrize(
    'parts, message',
    [
        (
            dict(categories=make_categories(['a', 'a'])),
            "category 'a' .id 2. appears twice",
        ),
        (
            dict(
                categories=[dict(id=1, name='a'), dict(id=1, name='b')],
            ),
            "category 'b' .id 1. appears twice",
        ),
        (
            dict(annotations=[make_annotation(1, 1, 9)]),
            'the category_id 9 of 1 annotation is not in categories',
        ),
        (
            dict(annotations=[make_annotation(1, 8, 1)]),
            'the image_id 8 of 1 annotation is not in images',
        ),
        (
            dict(annotations=[make_annotation(1, 1, 1)] * 2),
            'annotation id 1 appears twice',
        ),
        (
            dict(images=[make_image(1), make_image(1)]),
            'image id 1 appears twice',
        ),
        (dict(images=[dict(id=1, file_name='a')]), r"no \['width', 'height"),
        (
            dict(
                annotations=[
                    make_annotation(1, 1, 1, bbox=(1, 2, 3, 4))
                    | dict(bbox=[1, 2, 3])
                ]
            ),
            r'annotation 1 has the bbox \[1, 2, 3\]; four finite',
        ),
        (
            dict(
                annotations=[
                    make_annotation(1, 1, 1)
                    | dict(bbox=[1, 2, float('nan'), 3])
                ]
            ),
            'annotation 1 has the bbox .*nan.*; four finite',
        ),
        (
            dict(annotations=[make_annotation(1, 1, 1) | dict(bbox=None)]),
            'annotation 1 has the bbox None; four finite',
        ),
        (
            dict(annotations=[dict(id=1, image_id=1, bbox=[1, 2, 3, 4])]),
            r"has no \['category_id'\]",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, parts, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, **parts))


def test_ids_with_gaps_give_labels_by_name(tmp_path):
    categories = [dict(id=70, name='b'), dict(id=9, name='a')]
    annotations = [make_annotation(1, 1, 70), make_annotation(2, 1, 9)]
    dataset = load(write(tmp_path, annotations, categories=categories))
    assert [i['bbox_label'] for i in dataset[0]['instances']] == [1, 0]


def test_boxes_that_no_loader_keeps_are_counted(tmp_path):
    boxes = [
        (4, 5, 20, 10),
        (4, 5, 0, 10),
        (4, 5, 20, -3),
        (64, 5, 9, 9),
        (-9, 5, 9, 9),
        (60, 40, 30, 30),
    ]
    annotations = [
        make_annotation(i + 1, 1, 1, bbox=box) for i, box in enumerate(boxes)
    ]
    annotations.append(make_annotation(7, 1, 1, ignore=1))
    dataset = load(write(tmp_path, annotations))
    assert [i['bbox'] for i in dataset[0]['instances']] == [
        [4, 5, 24, 15],
        [60, 40, 90, 70],
    ]
    assert dataset.num_skipped == {
        'narrower than a pixel': 2,
        'outside the image': 2,
        'marked as ignored': 1,
    }


def test_polygons_and_rle_in_one_file_are_the_same_masks(tmp_path):
    polygon = [[4, 5, 24, 5, 24, 15, 4, 15]]
    rle = mask_utils.merge(mask_utils.frPyObjects(polygon, 48, 64))
    text = dict(size=list(rle['size']), counts=rle['counts'].decode())
    column = mask_utils.decode(rle).ravel(order='F')
    edges = np.flatnonzero(np.diff(column)) + 1
    runs = np.diff([0, *edges, column.size]).tolist()
    plain = dict(size=[48, 64], counts=runs)
    annotations = [
        make_annotation(i + 1, 1, 1, segmentation=mask)
        for i, mask in enumerate((polygon, text, plain))
    ]
    images = [make_image(1)]
    write_images(tmp_path, images)
    dataset = load(
        write(tmp_path, annotations, images),
        data_prefix=dict(img=str(tmp_path)),
    )
    results = LoadAnnotations(with_bbox=True, with_mask=True)(
        DITOLoadImageFromFile()(dataset[0])
    )
    masks = results['gt_masks'].masks
    assert masks.sum(axis=(1, 2)).min() == 200
    assert (masks == masks[0]).all()
    assert not results['gt_ignore_flags'].any()
