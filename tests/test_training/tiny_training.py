# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Short trainings of a tiny detector on files in LVIS form."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny_detector import TEXT_ENCODER, tiny_config

_COUNT = iter(range(10**6))


def box(number: int, image: int, category: int, x: int, **more: Any) -> dict:
    """An annotation of 20 x 24 pixels."""
    return dict(
        id=number,
        image_id=image,
        category_id=category,
        bbox=[x, 8, 20, 24],
        area=480,
        iscrowd=0,
        segmentation=[[x, 8, x + 20, 8, x + 20, 32, x, 32]],
        **more,
    )


def content() -> dict[str, list]:
    """Two base classes and a novel one without objects; an empty image."""
    categories = [
        dict(id=i, name=name, frequency=group, image_count=1, instance_count=1)
        for i, name, group in (
            (3, 'dog', 'c'),
            (5, 'bird', 'r'),
            (9, 'cat', 'f'),
        )
    ]
    images = [
        dict(
            id=i,
            width=64,
            height=48,
            file_name=f'{i}.png',
            neg_category_ids=[],
            not_exhaustive_category_ids=[],
        )
        for i in (1, 2, 3, 4)
    ]
    return dict(
        images=images,
        categories=categories,
        annotations=[box(1, 1, 3, 2), box(2, 1, 9, 30), box(3, 2, 9, 10)],
    )


def write(folder: Path, change: Callable[[dict], None] = None) -> str:
    """Write the file, after a change, and its pictures."""
    data = content()
    if change is not None:
        change(data)
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for image in data['images']:
        pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / image['file_name']), pixels)
    path = folder / 'train.json'
    path.write_text(json.dumps(data))
    return str(path)


class Recorder(Hook):
    """Keeps the losses of every step."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        self.losses.append({k: float(v) for k, v in outputs.items()})


def training(
    ann_file: str,
    iters: int = 3,
    seed: int = 0,
    wrapper: str = 'OptimWrapper',
    batch_size: int = 2,
    lr: float = 1e-2,
    split: str = 'base',
    hook: dict = None,
) -> Config:
    """Config of a training."""
    folder, name = Path(ann_file).parent, f'tiny{next(_COUNT)}'
    pipeline = [
        dict(type='DITOLoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(
            type='RandomResize',
            scale=(64, 64),
            ratio_range=(0.8, 1.2),
            keep_ratio=True,
        ),
        dict(type='PackDetInputs'),
    ]
    return Config(
        dict(
            default_scope='mmdet',
            experiment_name=name,
            work_dir=str(folder / name),
            model=tiny_config(text_encoder=TEXT_ENCODER),
            train_dataloader=dict(
                batch_size=batch_size,
                num_workers=0,
                sampler=dict(type='InfiniteSampler', shuffle=True),
                dataset=dict(
                    type='DITOLVISDataset',
                    ann_file=ann_file,
                    split=split,
                    data_prefix=dict(img=str(folder)),
                    pipeline=pipeline,
                ),
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters),
            optim_wrapper=dict(
                type=wrapper,
                clip_grad=dict(max_norm=5.0),
                optimizer=dict(type='AdamW', lr=lr),
            ),
            custom_hooks=[
                dict(
                    type='DITOVocabularyHook', templates='none', **(hook or {})
                )
            ],
            default_hooks=dict(
                checkpoint=dict(
                    type='CheckpointHook',
                    by_epoch=False,
                    interval=10**6,
                    save_last=False,
                )
            ),
            randomness=dict(seed=seed),
            log_level='ERROR',
        )
    )


def train(*args: Any, **kwargs: Any) -> Any:
    """Train and give the losses of each step and the weights."""
    cfg = training(*args, **kwargs)
    runner, recorder = Runner.from_cfg(cfg), Recorder()
    runner.register_hook(recorder)
    runner.train()
    return recorder.losses, runner.model.state_dict()
