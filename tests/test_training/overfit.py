# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Train the small detector on two pictures of symbols until it has them."""

import copy
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from dito.datasets.symbols import SymbolsConfig, build_symbols
from dito.utils.configs import config_root

SIZE = 96
IMAGES = 2
_EMPTY = dict(
    val_images=0,
    single_shards=0,
    scene_shards=0,
    lone_shards=0,
    retrieval_images=0,
    zero_shot_images=0,
)


def overfit_config(root: Path, iters: int, lr: float) -> Config:
    """Config of a training and a test on the same two pictures.

    The network, its losses and its start are those of
    ``ablations/dito_symbols_no-rep.py``: shipped towers, shifted windows,
    distillation. Pictures are smaller and without jitter, proposals and
    RoIs fewer.

    Args:
        root (Path): Folder for pictures, logs and checkpoints.
        iters (int): Iterations of two pictures.
        lr (float): Learning rate.

    Returns:
        Config: For a :class:`Runner`.
    """
    build_symbols(
        str(root / 'data'),
        SymbolsConfig(train_images=IMAGES, size=SIZE, **_EMPTY),
    )
    cfg = Config.fromfile(
        config_root() / 'ablations' / 'dito_symbols_no-rep.py'
    )
    cfg.work_dir = str(root / 'work')
    cfg.experiment_name = f'overfit_{iters}'
    cfg.model.data_preprocessor.pad_size_divisor = SIZE
    cfg.model.train_cfg.rcnn.sampler.num = 48
    cfg.model.train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=100)
    cfg.model.test_cfg.rpn.update(nms_pre=200, max_per_img=100)
    resize = dict(type='Resize', scale=(SIZE, SIZE), keep_ratio=True)
    pipeline = cfg.train_dataloader.dataset.pipeline
    steps = [s for s in pipeline if not s.type.startswith('Random')]
    dataset = cfg.train_dataloader.dataset
    dataset.update(
        data_root=f'{root}/data/', pipeline=[*steps[:2], resize, *steps[2:]]
    )
    cfg.train_dataloader.update(
        batch_size=IMAGES,
        num_workers=0,
        persistent_workers=False,
        sampler=dict(type='InfiniteSampler', shuffle=False),
    )
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    test_pipeline = cfg.test_dataloader.dataset.pipeline
    test_pipeline[1] = resize
    cfg.test_dataloader.dataset = dict(
        copy.deepcopy(dataset.to_dict()),
        test_mode=True,
        filter_cfg=None,
        pipeline=test_pipeline,
    )
    cfg.test_evaluator = dict(
        type='DITOLVISMetric',
        ann_file=f'{root}/data/annotations/train_base.json',
    )
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(key)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters)
    cfg.optim_wrapper.optimizer.lr = lr
    cfg.param_scheduler = [
        dict(
            type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10
        ),
        dict(
            type='CosineAnnealingLR',
            by_epoch=False,
            begin=10,
            end=iters,
            T_max=iters - 10,
            eta_min_ratio=0.02,
        ),
    ]
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=iters,
        save_optimizer=False,
    )
    cfg.default_hooks.pop('visualization')
    return cfg


def overfit(
    root: Path, iters: int = 100, lr: float = 2e-3
) -> dict[str, float]:
    """Train, then test on what was trained on.

    Returns:
        dict[str, float]: Figures of the test, as shares of 1.
    """
    cfg = overfit_config(root, iters, lr)
    Runner.from_cfg(copy.deepcopy(cfg)).train()
    cfg.load_from = f'{root}/work/iter_{iters}.pth'
    cfg.experiment_name += '_test'
    return Runner.from_cfg(cfg).test()
