# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A tiny detector with a text tower, and a data set to test it on."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tiny_detector import DIMS, tiny_config

from dito.apis import save_model
from dito.models.text import DITOTextEncoder

NAMES = ['red umbrella', 'anchor', 'chess knight']
PIPELINE = [
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


def write_images(folder: Path) -> list[Path]:
    """Write two pictures of noise, of two sizes."""
    rng = np.random.default_rng(0)
    paths = []
    for number, (height, width) in enumerate(((48, 80), (90, 70))):
        image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        paths.append(folder / f'{number}.png')
        cv2.imwrite(str(paths[-1]), image)
    return paths


def write_annotations(folder: Path, images: list[Path]) -> Path:
    """Write a COCO file with one box per image."""
    content: dict[str, Any] = dict(
        images=[],
        annotations=[],
        categories=[dict(id=i + 1, name=n) for i, n in enumerate(NAMES)],
    )
    for number, path in enumerate(images):
        height, width = cv2.imread(str(path)).shape[:2]
        content['images'].append(
            dict(id=number, file_name=path.name, height=height, width=width)
        )
        content['annotations'].append(
            dict(
                id=number + 1,
                image_id=number,
                category_id=number + 1,
                bbox=[5, 5, 30, 30],
                area=900,
                iscrowd=0,
            )
        )
    path = folder / 'annotations.json'
    path.write_text(json.dumps(content))
    return path


def untrained_detector(folder: Path) -> tuple[list[Path], Config, Any]:
    """Write pictures and annotations; build a detector with random weights.

    Returns:
        tuple: The pictures, the config and the model.
    """
    images = write_images(folder)
    cfg = detector_config(folder, write_annotations(folder, images))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return images, cfg, model


def write_detector(folder: Path) -> dict[str, Any]:
    """Write an untrained detector, its config and pictures.

    Returns:
        dict: ``folder``, ``images``, ``cfg``, ``weights`` (.safetensors with
        a config), of the classes 'red umbrella' and 'anchor'.
    """
    images, cfg, model = untrained_detector(folder)
    weights = folder / 'model.safetensors'
    save_model(weights, model, cfg, dict(classes=('red umbrella', 'anchor')))
    return dict(folder=folder, images=images, cfg=cfg, weights=weights)


def detector_config(folder: Path, annotations: Path) -> Config:
    """Config of the detector with its test of the data set."""
    words = [
        *NAMES,
        'background',
        'a photo of the',
        'red',
        'blue kite',
        'wheel',
    ]
    tower = dict(
        type='DITOTextEncoder',
        arch=dict(width=16, layers=1, heads=2),
        embed_dims=DIMS,
        context_length=16,
        token_ids=DITOTextEncoder.collect_token_ids(words),
    )
    return Config(
        dict(
            custom_imports=dict(imports=['dito']),
            default_scope='mmdet',
            model=tiny_config(text_encoder=tower),
            custom_hooks=[
                dict(type='DITOVocabularyHook', templates=['a photo of {}'])
            ],
            test_dataloader=dict(
                batch_size=1,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(
                    type='CocoDataset',
                    ann_file=str(annotations),
                    data_prefix=dict(img=str(folder)),
                    metainfo=dict(
                        classes=tuple(NAMES), novel_classes=('chess knight',)
                    ),
                    test_mode=True,
                    pipeline=PIPELINE,
                ),
            ),
            test_cfg=dict(type='TestLoop'),
            test_evaluator=dict(type='CocoMetric', ann_file=str(annotations)),
            work_dir=str(folder / 'work'),
        )
    )


def write_film(path: Path, count: int = 12, side: int = 48) -> np.ndarray:
    """Write a film of noise with a moving block, 10 frames a second.

    Returns:
        ndarray: The frames before they were encoded, (N, side, 1.5 * side, 3).
    """
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 60, (count, side, side * 3 // 2, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[10:30, 2 * number : 2 * number + 20] = (40, 200, 240)
    kind = 'MJPG' if path.suffix == '.avi' else 'mp4v'
    size = frames.shape[2], frames.shape[1]
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter.fourcc(*kind), 10, size
    )
    for frame in frames:
        writer.write(frame)
    writer.release()
    return frames
