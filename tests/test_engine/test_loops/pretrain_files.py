# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tiny pretraining runs: shards, class folders, configs."""

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np

COLOURS = dict(
    red=(0, 0, 255),
    green=(0, 255, 0),
    blue=(255, 0, 0),
    black=(0, 0, 0),
    white=(255, 255, 255),
)


def colour_jpeg(name, size=16):
    image = np.zeros((size, size, 3), np.uint8)
    image[:] = COLOURS[name]
    return cv2.imencode('.jpg', image)[1].tobytes()


def write_data(
    root: Path, shards: int = 4, blocks: int = 4, broken: int = 0
) -> None:
    """Shards of plain coloured images, and a folder of classes.

    ``broken`` images of each shard are cut off.
    """
    for number in range(shards):
        with tarfile.open(root / f'{number:02d}.tar', 'w') as tar:
            for i in range(blocks * len(COLOURS)):
                name = list(COLOURS)[i % len(COLOURS)]
                image = colour_jpeg(name)
                if i % 3 == 1 and i // 3 < broken:
                    image = image[:-9]
                for ext, data in (
                    ('jpg', image),
                    ('txt', f'a {name} image'.encode()),
                ):
                    info = tarfile.TarInfo(f'{number}_{i}.{ext}')
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    for name in COLOURS:
        folder = root / 'classes' / name
        folder.mkdir(parents=True)
        (folder / '0.jpg').write_bytes(colour_jpeg(name))


def clip_model(embed_dims: int = 16, cpe: bool = True) -> dict:
    return dict(
        type='mmdet.CLIPPretrainer',
        backbone=dict(
            type='DITOViT',
            img_size=16,
            patch_size=8,
            arch=dict(embed_dims=embed_dims, num_layers=1, num_heads=2),
        ),
        text_encoder=dict(
            type='DITOTextEncoder',
            embed_dims=embed_dims,
            arch=dict(width=16, layers=1, heads=2),
            context_length=8,
            token_ids=token_ids(),
        ),
        cpe=dict(up_size=8) if cpe else None,
    )


def token_ids() -> list:
    """Few rows, so that the tower is small."""
    from dito.models.text import DITOTextEncoder

    return DITOTextEncoder.collect_token_ids(
        [f'a {name} image .' for name in COLOURS]
    )


def runner_cfg(
    root: Path,
    work_dir: Path,
    model: dict,
    *,
    max_iters: int,
    batch_size: int = 10,
    num_workers: int = 0,
    micro_batch=None,
    optimizer: str = 'AdamW',
    lr: float = 1e-2,
    val: bool = False,
    **kwargs,
) -> dict:
    """Keyword arguments of a Runner."""
    cfg = dict(
        model=model,
        work_dir=str(work_dir),
        default_scope='mmdet',
        experiment_name=str(work_dir).replace('/', '_'),
        train_dataloader=dict(
            batch_size=batch_size,
            num_workers=num_workers,
            sampler=None,
            collate_fn=dict(type='image_text_collate'),
            dataset=dict(
                type='ImageTextShards',
                size=16,
                num_streams=2,
                shards=str(root / '{00..03}.tar'),
            ),
        ),
        train_cfg=dict(
            type='ImageTextTrainLoop',
            max_iters=max_iters,
            val_interval=max_iters,
            micro_batch=micro_batch,
        ),
        optim_wrapper=dict(optimizer=dict(type=optimizer, lr=lr)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3)
        ),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
        **kwargs,
    )
    if val:
        cfg.update(
            val_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='image_text_collate'),
                dataset=dict(
                    type='DITOFolderDataset',
                    size=16,
                    root=str(root / 'classes'),
                ),
            ),
            val_evaluator=dict(type='DITOZeroShotMetric'),
            val_cfg=dict(type='ValLoop'),
            custom_hooks=[
                dict(type='DITOZeroShotHook', templates=['a {} image'])
            ],
        )
    return cfg
