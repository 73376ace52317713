# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
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
from mmdet.datasets import LVISV1Dataset
from mmdet.registry import DATASETS
from mmengine.registry import DefaultScope

from dito.datasets import DITOLVISDataset

LVIS_NAMES = LVISV1Dataset.METAINFO['classes']


def write_lvis(tmp_path, categories, annotations, images=None, **extra):
    images = images or [make_image(1), make_image(2), make_image(3)]
    content = dict(
        categories=categories, annotations=annotations, images=images, **extra
    )
    return write_json(tmp_path / 'annotations' / 'train.json', content)


@pytest.fixture
def small_file(tmp_path):
    """Four classes ('b' and 'd' rare), listed backwards in the file."""
    categories = make_categories(['a', 'b', 'c', 'd'], 'frcr', first_id=5)
    annotations = [
        make_annotation(1, 1, 5),
        make_annotation(2, 1, 6),
        make_annotation(3, 2, 8),
        make_annotation(4, 2, 7, bbox=(0, 0, 30, 40)),
        make_annotation(5, 1, 7),
    ]
    return write_lvis(tmp_path, categories[::-1], annotations)


def labels_of(dataset, index):
    return [item['bbox_label'] for item in dataset[index]['instances']]


def test_all_classes_by_default_and_labels_follow_names(small_file):
    dataset = DITOLVISDataset(ann_file=small_file, data_prefix=dict(img='x'))
    assert dataset.metainfo['classes'] == ('a', 'b', 'c', 'd')
    assert dataset.metainfo['novel_classes'] == ('b', 'd')
    assert dataset.metainfo['base_classes'] == ('a', 'c')
    assert dataset.metainfo['frequency'] == ('f', 'r', 'c', 'r')
    assert dataset.metainfo['category_ids'] == (5, 6, 7, 8)
    assert [labels_of(dataset, i) for i in range(3)] == [
        [0, 1, 2],
        [3, 2],
        [],
    ]
    assert dataset[0]['img_path'] == 'x/000001.jpg'
    assert dataset[1]['instances'][1]['bbox'] == [0, 0, 30, 40]


def test_base_split_has_no_trace_of_rare_classes(small_file):
    dataset = DITOLVISDataset(
        ann_file=small_file,
        split='base',
        filter_cfg=dict(filter_empty_gt=True),
    )
    assert dataset.metainfo['classes'] == ('a', 'c')
    assert dataset.metainfo['novel_classes'] == ()
    assert set(dataset.metainfo['frequency']) == {'f', 'c'}
    assert [labels_of(dataset, i) for i in range(len(dataset))] == [
        [0, 1],
        [1],
    ]
    assert dataset.get_cat_ids(0) == [0, 1]


def test_given_classes_decide_the_labels(small_file):
    dataset = DITOLVISDataset(
        ann_file=small_file, metainfo=dict(classes=('c', 'a', 'd'))
    )
    assert labels_of(dataset, 0) == [1, 0]
    assert labels_of(dataset, 1) == [2, 0]
    assert dataset.metainfo['novel_classes'] == ('d',)


def test_unknown_class_is_an_error_with_the_list(small_file):
    with pytest.raises(ValueError, match=r"train.json: 1 of 2 .*'unicorn'"):
        DITOLVISDataset(
            ann_file=small_file, metainfo=dict(classes=('a', 'unicorn'))
        )


@pytest.mark.parametrize('seed', [0, 1])
def test_1203_classes_in_any_order(tmp_path, seed):
    """Shuffled file, shuffled class list: each label is its own name."""
    rng = np.random.default_rng(seed)
    frequency = rng.choice(list('rcf'), len(LVIS_NAMES))
    categories = make_categories(LVIS_NAMES, frequency)
    annotations = [
        make_annotation(i + 1, int(rng.integers(1, 4)), category['id'])
        for i, category in enumerate(categories)
    ]
    name_of = {i + 1: LVIS_NAMES[i] for i in range(len(LVIS_NAMES))}
    ann_file = write_lvis(
        tmp_path, list(rng.permutation(categories)), annotations
    )
    classes = tuple(str(name) for name in rng.permutation(LVIS_NAMES))
    dataset = DITOLVISDataset(
        ann_file=ann_file, metainfo=dict(classes=classes)
    )
    assert len(dataset.metainfo['classes']) == 1203
    for index in range(len(dataset)):
        info = dataset[index]
        expected = [
            name_of[ann['category_id']]
            for ann in annotations
            if ann['image_id'] == info['img_id']
        ]
        got = [classes[label] for label in labels_of(dataset, index)]
        assert got == expected
    base = DITOLVISDataset(ann_file=ann_file, split='base')
    assert len(base.metainfo['classes']) == int((frequency != 'r').sum())
    assert sum(len(base[i]['instances']) for i in range(len(base))) == int(
        (frequency != 'r').sum()
    )


def test_same_instances_as_mmdet_on_a_file_in_its_order(tmp_path):
    rng = np.random.default_rng(3)
    categories = make_categories(LVIS_NAMES, ['c'] * len(LVIS_NAMES))
    images = [
        dict(
            make_image(i, size=(int(w), 60)),
            coco_url=f'http://images.cocodataset.org/val2017/{i:012d}.jpg',
        )
        for i, w in enumerate(rng.integers(20, 90, 30), start=1)
    ]
    for image in images:
        del image['file_name']
    annotations = []
    for i in range(400):
        # Also boxes outside the image, under a pixel and without area.
        bbox = np.round(rng.uniform(-10, 80, 4), 1)
        bbox[2:] = rng.choice([0, 0.5, 5, 30], 2)
        annotations.append(
            make_annotation(
                i + 1,
                int(rng.integers(1, 31)),
                int(rng.integers(1, 1204)),
                tuple(float(v) for v in bbox),
                iscrowd=int(rng.random() < 0.1),
                ignore=bool(rng.random() < 0.1),
            )
        )
    ann_file = write_lvis(tmp_path, categories, annotations, images)
    theirs = LVISV1Dataset(ann_file=ann_file, data_prefix=dict(img='root'))
    ours = DITOLVISDataset(ann_file=ann_file, data_prefix=dict(img='root'))
    assert ours.metainfo['classes'] == LVIS_NAMES
    assert len(ours) == len(theirs) == 30
    for index in range(len(ours)):
        assert ours[index] == theirs[index]
    assert ours[0]['img_path'] == 'root/val2017/000000000001.jpg'


def test_image_without_name_and_url_is_an_error(tmp_path):
    image = make_image(1)
    del image['file_name']
    ann_file = write_lvis(
        tmp_path, make_categories('a', 'f'), [], images=[image]
    )
    with pytest.raises(ValueError, match='image 1 has neither'):
        DITOLVISDataset(ann_file=ann_file)


@pytest.mark.parametrize(
    'annotation, message',
    [
        (
            make_annotation(1, 1, 77),
            'the category_id 77 of 1 annotation is not in categories; add the',
        ),
        (
            make_annotation(1, 99, 1),
            'the image_id 99 of 1 annotation is not in images; add the image',
        ),
    ],
)
def test_dangling_annotations_are_reported(tmp_path, annotation, message):
    ann_file = write_lvis(tmp_path, make_categories('a', 'f'), [annotation])
    with pytest.raises(ValueError, match=message):
        DITOLVISDataset(ann_file=ann_file)


def test_repeated_annotation_id_is_an_error(tmp_path):
    annotations = [make_annotation(4, 1, 1), make_annotation(4, 2, 1)]
    ann_file = write_lvis(tmp_path, make_categories('a', 'f'), annotations)
    with pytest.raises(ValueError, match='annotation id 4 appears twice'):
        DITOLVISDataset(ann_file=ann_file)


def test_broken_or_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='gone.json does not exist'):
        DITOLVISDataset(ann_file=str(tmp_path / 'gone.json'))
    (tmp_path / 'half.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='half.json is not valid JSON'):
        DITOLVISDataset(ann_file=str(tmp_path / 'half.json'))
    path = write_json(tmp_path / 'other.json', dict(info=1))
    with pytest.raises(ValueError, match=r"no \['images', 'categories'\]"):
        DITOLVISDataset(ann_file=path)


def test_filter_drops_small_and_empty_images_only_in_training(tmp_path):
    images = [make_image(1), make_image(2, size=(20, 64)), make_image(3)]
    annotations = [make_annotation(1, 1, 1), make_annotation(2, 2, 1)]
    ann_file = write_lvis(
        tmp_path, make_categories('a', 'f'), annotations, images
    )
    filter_cfg = dict(filter_empty_gt=True, min_size=32)
    kept = DITOLVISDataset(ann_file=ann_file, filter_cfg=filter_cfg)
    assert [info['img_id'] for info in kept] == [1]
    everything = DITOLVISDataset(
        ann_file=ann_file, filter_cfg=filter_cfg, test_mode=True
    )
    assert len(everything) == 3
    with pytest.raises(ValueError, match='leaves none of the 3 images'):
        DITOLVISDataset(ann_file=ann_file, filter_cfg=dict(min_size=1000))


def test_polygon_and_rle_masks_reach_the_batch(tmp_path):
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[10:20, 30:50] = 1
    rle = mask_utils.encode(np.asfortranarray(mask))
    rle['counts'] = rle['counts'].decode()
    runs = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], runs, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [runs.size]])).tolist()
    segmentations = [rle, dict(size=[48, 64], counts=counts), None]
    annotations = [
        make_annotation(
            i + 1, 1, 1, bbox=(30, 10, 20, 10), segmentation=segmentation
        )
        for i, segmentation in enumerate(segmentations)
    ]
    annotations.append(make_annotation(9, 1, 1, bbox=(30, 10, 20, 10)))
    images = [make_image(1)]
    ann_file = write_lvis(
        tmp_path, make_categories('a', 'f'), annotations, images
    )
    write_images(tmp_path, images)
    config = dict(
        type='DITOLVISDataset',
        ann_file=ann_file,
        data_prefix=dict(img=str(tmp_path)),
        pipeline=[
            dict(type='DITOLoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='PackDetInputs'),
        ],
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(config)
    sample = dataset[0]['data_samples']
    masks = sample.gt_instances.masks.masks
    assert masks.shape == (3, 48, 64)
    assert (masks == mask).all()
    # The object without a mask is there, but not trained on.
    assert len(sample.ignored_instances) == 1


def test_counts_are_logged(small_file, monkeypatch):
    lines = []
    monkeypatch.setattr(
        'dito.datasets.ov_dataset.print_log',
        lambda text, **kwargs: lines.append(text),
    )
    DITOLVISDataset(ann_file=small_file, split='base')
    assert len(lines) == 1
    assert "split 'base', 2 of 4 classes (0 novel), 3 images" in lines[0]
    assert lines[0].endswith('3 of 5 annotations')
