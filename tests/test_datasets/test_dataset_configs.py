# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The data set parts of the configs, on small files with the real names."""

from pathlib import Path

import numpy as np
import pytest
from detection_files import (
    make_annotation,
    make_categories,
    make_image,
    write_images,
    write_json,
)
from mmdet.datasets import CocoDataset, LVISV1Dataset, Objects365V1Dataset
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from dito.datasets.objects365 import repair_o365_name

CONFIGS = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets'
LVIS_NAMES = LVISV1Dataset.METAINFO['classes']
COCO_NAMES = CocoDataset.METAINFO['classes']
O365_NAMES = Objects365V1Dataset.METAINFO['classes']


def write_set(root, ann_files, folder, names, frequency=None, seed=0):
    """Five images with objects of random classes, and their pictures."""
    rng = np.random.default_rng(seed)
    categories = make_categories(names, frequency)
    rng.shuffle(categories)
    images = [make_image(i, size=(160, 120)) for i in range(1, 6)]
    write_images(root / folder, images)
    for image in images:
        if frequency is not None:
            image['coco_url'] = f'http://x.org/{folder}/{image["file_name"]}'
            del image['file_name']
    annotations = [
        make_annotation(
            i + 1,
            1 + i % 5,
            int(rng.integers(1, len(names) + 1)),
            bbox=(10, 12, 100, 90),
        )
        for i in range(100)
    ]
    content = dict(
        images=images, annotations=annotations, categories=categories
    )
    for name in ann_files:
        write_json(root / 'annotations' / name, content)


def relocate(value, old, new):
    """Replace a data root everywhere in a config."""
    if isinstance(value, dict):
        return {k: relocate(v, old, new) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(relocate(v, old, new) for v in value)
    if isinstance(value, str) and value.startswith(old):
        return new + value[len(old) :]
    return value


def load_config(name, **roots):
    config = Config.fromfile(str(CONFIGS / name)).to_dict()
    for old, new in roots.items():
        config = relocate(config, f'data/{old}/', f'{new}/')
    for part in ('train_dataloader', 'val_dataloader'):
        config[part].update(num_workers=0, persistent_workers=False)
        config[part]['batch_size'] = 2
    return config


def first_batch(loader_cfg):
    with DefaultScope.overwrite_default_scope('mmdet'):
        loader = Runner.build_dataloader(loader_cfg, seed=0)
        return loader.dataset, next(iter(loader))


def build_metric(config):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return METRICS.build(config['val_evaluator'])


@pytest.fixture(scope='module')
def lvis_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('lvis')
    # The real numbers: 337 of 1,203 classes are rare.
    frequency = ['r'] * 337 + ['c'] * 461 + ['f'] * 405
    files = ('lvis_v1_train.json', 'lvis_v1_val.json')
    write_set(root, files, 'val2017', LVIS_NAMES, frequency)
    return root


def test_lvis(lvis_root):
    config = load_config('lvis_ov_instance.py', lvis_v1=lvis_root)
    train, batch = first_batch(config['train_dataloader'])
    assert len(train.metainfo['classes']) == 866
    assert train.metainfo['novel_classes'] == ()
    for image, sample in zip(
        batch['inputs'], batch['data_samples'], strict=True
    ):
        assert image.shape[0] == 3 and max(image.shape[1:]) <= 1024
        assert sample.gt_instances.labels.max() < 866
        masks = sample.gt_instances.masks
        assert (masks.height, masks.width) == image.shape[1:]
    val, batch = first_batch(config['val_dataloader'])
    assert len(val.metainfo['classes']) == 1203
    assert len(val.metainfo['novel_classes']) == 337
    assert batch['inputs'][0].shape == (3, 768, 1024)
    metric = build_metric(config)
    metric.dataset_meta = val.metainfo
    assert metric.novel.sum() == 337
    assert (metric._label_to_category == np.arange(1203)).all()
    assert config['test_evaluator'] == config['val_evaluator']
    assert (
        config['test_dataloader']['dataset']
        == (config['val_dataloader']['dataset'])
    )


def test_large_scale_jitter_covers_its_range(lvis_root):
    config = load_config('lvis_ov_instance.py', lvis_v1=lvis_root)
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = Runner.build_dataloader(
            config['train_dataloader'], seed=0
        ).dataset
    np.random.seed(0)
    shapes = np.array([dataset[i % 5]['inputs'].shape[1:] for i in range(30)])
    widths = shapes[:, 1]
    assert widths.min() < 250 and widths.max() == 1024
    assert (widths == 1024).mean() > 0.3


def test_coco(tmp_path):
    files = ('instances_train2017.json', 'instances_val2017.json')
    for folder in ('train2017', 'val2017'):
        write_set(tmp_path, files, folder, COCO_NAMES)
    config = load_config('coco_ov_detection.py', coco=tmp_path)
    train, batch = first_batch(config['train_dataloader'])
    assert len(train.metainfo['classes']) == 48
    assert 'masks' not in batch['data_samples'][0].gt_instances
    val, _ = first_batch(config['val_dataloader'])
    assert len(val.metainfo['classes']) == 65
    assert len(val.metainfo['novel_classes']) == 17
    metric = build_metric(config)
    metric.dataset_meta = val.metainfo
    metric._find_categories()
    assert len(metric.cat_ids) == 65


def test_objects365(tmp_path, lvis_root):
    write_set(tmp_path, ['objects365_val.json'], 'val', O365_NAMES)
    config = load_config(
        'objects365_ov_detection.py', objects365v1=tmp_path, lvis_v1=lvis_root
    )
    train, _ = first_batch(config['train_dataloader'])
    assert len(train.metainfo['classes']) == 866
    val, batch = first_batch(config['val_dataloader'])
    assert val.metainfo['classes'] == tuple(
        repair_o365_name(name) for name in O365_NAMES
    )
    assert val.metainfo['names_in_file'] == O365_NAMES
    assert batch['inputs'][0].shape == (3, 768, 1024)
    assert str(tmp_path) in batch['data_samples'][0].img_path
    metric = build_metric(config)
    metric.dataset_meta = val.metainfo
    metric._find_categories()
    assert metric.cat_ids == list(range(1, 366))
    assert config['test_evaluator'] == config['val_evaluator']
    assert (
        config['test_dataloader']['dataset']
        == (config['val_dataloader']['dataset'])
    )


def test_symbols(tmp_path):
    names = [f'symbol {k}' for k in range(12)]
    files = ('train_base.json', 'val.json')
    write_set(tmp_path, files, 'images', names, 'rcfc' * 3)
    config = load_config('symbols_instance.py', symbols=tmp_path)
    train, batch = first_batch(config['train_dataloader'])
    assert len(train.metainfo['classes']) == 9
    assert 'RandomFlip' not in str(config)
    for image in batch['inputs']:
        assert max(image.shape[1:]) <= 192
    val, batch = first_batch(config['val_dataloader'])
    assert len(val.metainfo['novel_classes']) == 3
    assert batch['inputs'][0].shape == (3, 144, 192)
    metric = build_metric(config)
    metric.dataset_meta = val.metainfo
    assert metric.metrics == ['bbox', 'segm']
    # One test prints three tables.
    lvis, coco, region = map(METRICS.build, config['test_evaluator'])
    assert lvis.protocols == ('standard', 'fixed')
    assert [m.default_prefix for m in (lvis, coco, region)] == [
        'lvis',
        'coco',
        'region',
    ]
    model = CONFIGS.parent / 'models' / 'dito_symbols.py'
    assert Config.fromfile(model).model.test_cfg.given_boxes == 'vlm'
