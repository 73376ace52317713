# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Averaged weights, best checkpoints, wrapped sets, epochs in stage 3."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_training import training, write

from dito.engine.hooks.best_checkpoint import (
    BestCheckpointHook,
    find_figure,
)
from dito.evaluation.average_precision import (
    PrecisionRecall,
    summarize_lvis,
)
from dito.utils.checkpoint import load_from_file

CHECKPOINTS = dict(type='DITOCheckpointHook', by_epoch=False, interval=1)


@pytest.fixture(scope='module')
def ann_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pictures and annotations."""
    return write(tmp_path_factory.mktemp('data'))


def configured(
    ann_file: str,
    folder: Path,
    iters: int = 2,
    hooks: Any = (),
    checkpoint: Any = (),
    val: bool = False,
    metric: Any = (),
) -> Config:
    """A training that writes checkpoints, and may validate."""
    cfg = training(ann_file, iters)
    cfg.work_dir = str(folder)
    cfg.default_hooks.checkpoint = dict(CHECKPOINTS, **dict(checkpoint))
    cfg.custom_hooks += list(hooks)
    if val:
        train = cfg.train_dataloader.dataset
        steps = [
            dict(type='DITOLoadImageFromFile'),
            dict(type='Resize', scale=(64, 64), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                type='PackDetInputs',
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                ),
            ),
        ]
        cfg.val_dataloader = dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(train, pipeline=steps, split='all', test_mode=True),
        )
        cfg.val_cfg = dict(type='ValLoop')
        cfg.val_evaluator = dict(
            type='DITOLVISMetric',
            ann_file=ann_file,
            metric='bbox',
            **dict(metric),
        )
        cfg.train_cfg.val_interval = 1
    return cfg


def run(cfg: Config, **changes: Any) -> Runner:
    """Train to the end."""
    cfg.merge_from_dict(changes)
    cfg.experiment_name = f'{Path(cfg.work_dir).name}_{run.count}'
    run.count += 1
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


run.count = 0


@pytest.mark.parametrize('kind', ['DITOEMAHook', 'EMAHook'])
@pytest.mark.parametrize('buffers', [False, True])
def test_averages_are_validated_and_saved(
    tmp_path: Path, ann_file: str, kind: str, buffers: bool
) -> None:
    """The copy is made before the names are known; they differ at a test."""
    hook = dict(type=kind, momentum=0.3, update_buffers=buffers)
    runner = run(configured(ann_file, tmp_path, 3, [hook], val=True))
    state = load_from_file(str(tmp_path / 'iter_3.pth'))
    names = [n for n, p in runner.model.named_parameters() if p.requires_grad]
    differ = 0
    for name in names:
        trained = state['ema_state_dict'][f'module.{name}']
        assert torch.equal(trained, runner.model.state_dict()[name])
        differ += not torch.equal(trained, state['state_dict'][name])
    assert differ > len(names) // 2
    assert runner.model.roi_head.bbox_head.num_classes == 2


def test_resuming_averages(tmp_path: Path, ann_file: str) -> None:
    hook = dict(type='DITOEMAHook', momentum=0.3)
    seeded = dict(type='DITOIterationSeedHook')
    straight = run(configured(ann_file, tmp_path / 'a', 3, [hook, seeded]))
    run(configured(ann_file, tmp_path / 'b', 2, [hook, seeded]))
    resumed = run(
        configured(ann_file, tmp_path / 'b', 3, [hook, seeded]), resume=True
    )
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    one, two = (load_from_file(str(tmp_path / x / 'iter_3.pth')) for x in 'ab')
    for part in ('state_dict', 'ema_state_dict'):
        assert all(torch.equal(v, two[part][k]) for k, v in one[part].items())

    # Without the hook: from the trained weights, and it is said.
    run(configured(ann_file, tmp_path / 'c', 2, [hook, seeded]))
    plain = configured(ann_file, tmp_path / 'c', 3, [seeded])
    runner = run(plain, resume=True, log_level='INFO')
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, runner.model.state_dict()[name]), name
    log = (Path(runner.log_dir) / f'{runner.timestamp}.log').read_text()
    assert 'the averages are dropped' in log
    # With the hook from a run without: MMEngine says so.
    run(configured(ann_file, tmp_path / 'd', 2, [seeded]))
    run(configured(ann_file, tmp_path / 'd', 3, [hook, seeded]), resume=True)


@pytest.mark.parametrize(
    'name',
    [
        'auto',
        'lvis/bbox_AP',
        'bbox_AP',
        'lvis/bbox_mAP',
        ['bbox_mAP', 'lvis/bbox_base_AP'],
    ],
)
def test_the_best_checkpoint(tmp_path: Path, ann_file: str, name: Any) -> None:
    runner = run(
        configured(
            ann_file, tmp_path, 1, val=True, checkpoint=dict(save_best=name)
        )
    )
    scores = {
        k: v
        for k, v in runner.message_hub.runtime_info.items()
        if k.startswith('best_score')
    }
    assert len(scores) == (2 if isinstance(name, list) else 1)
    assert all(0 <= score <= 1 for score in scores.values())
    assert len(list(tmp_path.glob('best_*_iter_1.pth'))) == len(scores)


def test_a_best_checkpoint_of_nothing(tmp_path: Path, ann_file: str) -> None:
    def best(**options: Any) -> Config:
        return configured(ann_file, tmp_path, 1, val=True, checkpoint=options)

    with pytest.raises(ValueError, match="metric 'coco'.*'lvis'"):
        run(best(save_best='coco/bbox_AP'))
    with pytest.raises(ValueError, match='save_best should be a str'):
        run(best(save_best=7))
    with pytest.raises(ValueError, match="rule='greater' or rule='less'"):
        run(best(save_best='surprise'))
    runner = run(best(save_best='lvis/bbox_BP'), log_level='ERROR')
    assert not list(tmp_path.glob('best_*'))
    log = (Path(runner.log_dir) / f'{runner.timestamp}.log').read_text()
    assert "'lvis/bbox_BP' is none of the figures" in log


def test_of_every_figure_that_is_printed_greater_is_better() -> None:
    scores = PrecisionRecall(np.ones((10, 101, 2, 4)), np.ones((10, 2, 4)))
    names = [
        'base_ap50',
        'novel_ap50',
        'all_ap50',
        'all_top5',
        'novel_mean',
        'i2t_R@1',
        't2i_R@10',
    ]
    for limit in 300, None:
        names += [
            f'{row}_{name}'
            for row in ('bbox', 'segm', 'bbox_fixed')
            for name in summarize_lvis(
                scores, 'rf', np.array([True, False]), limit
            )
        ]
    assert 'bbox_ARs@300' in names and 'bbox_fixed_AR' in names
    for name in names:
        for prefix in '', 'other/':
            hook = BestCheckpointHook(save_best=f'{prefix}{name}')
            assert hook.rules == ['greater'], name
        assert find_figure(name, {f'val/{name}': 1}) == f'val/{name}'
    assert BestCheckpointHook(save_best='my_loss').rules == ['less']


@pytest.mark.parametrize('most', [1, 2])
def test_nothing_is_left_to_train(
    tmp_path: Path, ann_file: str, most: int
) -> None:
    run(configured(ann_file, tmp_path, 2))
    written = (tmp_path / 'iter_2.pth').read_bytes()
    runner = run(
        configured(ann_file, tmp_path, most), resume=True, log_level='WARNING'
    )
    log = (Path(runner.log_dir) / f'{runner.timestamp}.log').read_text()
    assert f'iter_2.pth is of iter 2, and train_cfg.max_iters={most}' in log
    assert (tmp_path / 'iter_2.pth').read_bytes() == written


def test_last_checkpoint_is_a_folder(tmp_path: Path, ann_file: str) -> None:
    (tmp_path / 'last_checkpoint').mkdir()
    runner = run(
        configured(ann_file, tmp_path, 1), resume=True, log_level='WARNING'
    )
    log = (Path(runner.log_dir) / f'{runner.timestamp}.log').read_text()
    assert 'last_checkpoint is a folder' in log
    assert 'Nothing is left' not in log
    runner = run(configured(ann_file, tmp_path, 2), resume=True)
    assert runner._load_from == str(tmp_path / 'iter_1.pth')


@pytest.mark.parametrize(
    'name,wanted',
    [
        ('coco/bbox_AP', 'coco/bbox_AP'),
        ('bbox_AP50', 'coco/bbox_AP50'),
        ('coco/bbox_mAP', 'coco/bbox_AP'),
        ('bbox_mAP_50', 'coco/bbox_AP50'),
        ('coco/segm_mAP_s', 'coco/segm_APs'),
        ('top1', None),
        ('AP', None),
        ('both', None),
    ],
)
def test_names_of_figures(name: str, wanted: str) -> None:
    figures = dict.fromkeys(
        ['coco/bbox_AP', 'coco/bbox_AP50', 'coco/segm_APs', 'a/both', 'b/both']
    )
    assert find_figure(name, figures) == wanted


def wrapped(cfg: Config, kind: str, other: Any = None) -> dict:
    """The training set in a wrapper; in a list together with another."""
    one = cfg.train_dataloader.dataset.to_dict()
    if kind == 'ConcatDataset':
        one['metainfo'] = dict(place='here')
        return dict(type=kind, datasets=[one, dict(one, **(other or {}))])
    more = dict(oversample_thr=0.5) if 'Class' in kind else dict(times=2)
    return dict(type=kind, dataset=one, **more)


@pytest.mark.parametrize(
    'kind', ['ConcatDataset', 'RepeatDataset', 'ClassBalancedDataset']
)
def test_wrapped_sets(tmp_path: Path, ann_file: str, kind: str) -> None:
    cfg = configured(ann_file, tmp_path)
    cfg.train_dataloader.dataset = wrapped(cfg, kind)
    runner = run(cfg)
    assert runner.model.vocabulary.names == ('dog', 'cat')
    meta = load_from_file(str(tmp_path / 'iter_2.pth'))['meta']
    assert meta['dataset_meta']['classes'] == ('dog', 'cat')


def test_concatenated_sets_that_differ_in_something_else(
    tmp_path: Path, ann_file: str
) -> None:
    cfg = configured(ann_file, tmp_path)
    cfg.train_dataloader.dataset = wrapped(
        cfg, 'ConcatDataset', dict(metainfo=dict(place='elsewhere'))
    )
    run(cfg)
    meta = load_from_file(str(tmp_path / 'iter_2.pth'))['meta']
    assert meta['dataset_meta']['classes'] == ('dog', 'cat')


@pytest.mark.parametrize(
    'classes,text',
    [
        (('dog',), "set 0 has 2 and set 1 has 1, only one of them has 'cat'"),
        (('cat', 'dog'), 'the same ones in another order'),
    ],
)
def test_concatenated_sets_with_other_classes(
    tmp_path: Path, ann_file: str, classes: tuple, text: str
) -> None:
    cfg = configured(ann_file, tmp_path)
    cfg.train_dataloader.dataset = wrapped(
        cfg,
        'ConcatDataset',
        dict(metainfo=dict(classes=classes, place='here')),
    )
    with pytest.raises(ValueError, match=text):
        run(cfg)
    assert not list(tmp_path.glob('*.pth'))


def test_epochs_need_a_sampler_with_an_end(
    tmp_path: Path, ann_file: str
) -> None:
    epochs = dict(type='EpochBasedTrainLoop', max_epochs=1)
    cfg = configured(ann_file, tmp_path)
    cfg.train_cfg = epochs
    with pytest.raises(ValueError, match='DefaultSampler'):
        run(cfg)
    cfg = configured(ann_file, tmp_path, checkpoint=dict(by_epoch=True))
    cfg.train_cfg = epochs
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    run(cfg)
    assert (tmp_path / 'epoch_1.pth').is_file()
