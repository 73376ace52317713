# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What may reach the losses of detection training, and what must not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from tiny_training import box, train, write


def same(one: Any, two: Any) -> bool:
    """Whether two trainings are equal to the last bit."""
    return one[0] == two[0] and all(
        torch.equal(one[1][k], two[1][k]) for k in one[1]
    )


@pytest.fixture(scope='module')
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The training that all others are compared with."""
    torch.manual_seed(0)
    return train(write(tmp_path_factory.mktemp('plain')))


def test_same_seed_same_bits(plain: Any, tmp_path: Path) -> None:
    again = train(write(tmp_path))
    assert same(plain, again)
    assert not same(plain, train(write(tmp_path), seed=1))
    assert all(np.isfinite(list(step.values())).all() for step in plain[0])


def plant_novel(data: dict) -> None:
    """Novel boxes, also alone in a picture, and all novel statistics."""
    for number, (image, x) in enumerate(((1, 20), (3, 5), (3, 40)), 50):
        data['annotations'].insert(0, box(number, image, 5, x))
    data['categories'][1].update(image_count=10**6, instance_count=10**6)
    data['images'][0]['neg_category_ids'] = [5]
    data['images'][1]['not_exhaustive_category_ids'] = [5]


def test_planted_novel_objects_change_nothing(
    plain: Any, tmp_path: Path
) -> None:
    ann_file = write(tmp_path, plant_novel)
    assert same(plain, train(ann_file))
    dataset = DATASETS.build(
        dict(type='DITOLVISDataset', split='base', ann_file=ann_file)
    )
    assert dataset.metainfo['classes'] == ('dog', 'cat')
    assert sum(len(d['instances']) for d in dataset) == 3


def test_novel_classes_are_refused_in_training(tmp_path: Path) -> None:
    ann_file = write(tmp_path, plant_novel)
    with pytest.raises(ValueError, match="novel classes.*split='base'"):
        train(ann_file, split='all')
    losses, _ = train(
        ann_file, split='all', iters=1, hook=dict(novel_in_training=True)
    )
    assert len(losses) == 1


def test_no_federated_loss(plain: Any, tmp_path: Path) -> None:
    def change(data: dict) -> None:
        for image in data['images']:
            image.update(
                neg_category_ids=[3, 9], not_exhaustive_category_ids=[9]
            )
        data['categories'][2].update(image_count=7, instance_count=99)

    assert same(plain, train(write(tmp_path, change)))


def test_crowds_and_ignored_objects_take_no_part(
    plain: Any, tmp_path: Path
) -> None:
    def change(data: dict) -> None:
        data['annotations'] += [
            dict(box(60, 1, 3, 36), iscrowd=1),
            dict(box(61, 2, 9, 36), ignore=1),
            # An image that has nothing but a crowd is an empty one.
            dict(box(62, 3, 9, 5), iscrowd=1),
        ]

    assert same(plain, train(write(tmp_path, change)))


@pytest.mark.parametrize('kept', [[], [1]])
def test_images_without_base_objects(tmp_path: Path, kept: list) -> None:
    def change(data: dict) -> None:
        data['annotations'] = [box(1, i, 9, 2) for i in kept]
        plant_novel(data)

    losses, weights = train(write(tmp_path, change), iters=2, batch_size=4)
    for step in losses:
        assert np.isfinite(list(step.values())).all()
        # Without foreground there is no box to learn.
        assert (step['loss_bbox'] == 0) == (not kept)
    assert losses[0]['loss_cls'] > 0
    assert all(
        torch.isfinite(v).all()
        for v in weights.values()
        if v.is_floating_point()
    )


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    """The first loss agrees within 5 percent, early and late ones within 20.

    A detector of 16 channels and one picture per step. Which proposals and
    RoIs are sampled depends on scores, so the two trainings see other RoIs
    after some steps: ten steps are compared, of the last ones the median, as a
    picture with an object is worth thirty times one without.
    """
    ann_file = write(tmp_path)
    runs = [
        train(ann_file, iters=50, batch_size=1, lr=5e-4, wrapper=w)[0]
        for w in ('OptimWrapper', 'DITOBF16OptimWrapper')
    ]
    exact, half = ([step['loss'] for step in losses] for losses in runs)
    assert exact != half
    assert half[0] == pytest.approx(exact[0], rel=0.05)
    assert np.mean(exact[40:]) < 0.9 * np.mean(exact[:10])
    assert np.mean(half[40:]) < 0.9 * np.mean(half[:10])
    assert np.mean(half[:10]) == pytest.approx(np.mean(exact[:10]), rel=0.2)
    assert np.median(half[40:]) == pytest.approx(
        np.median(exact[40:]), rel=0.2
    )
