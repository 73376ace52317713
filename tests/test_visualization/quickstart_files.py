# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The files that a quickstart leaves behind, with tiny untrained models."""

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tiny_api import NAMES, detector_config, write_annotations

SIZES = ((48, 80), (64, 64), (90, 70))


def write_data(root: Path) -> Path:
    """Write validation images; 'chess knight' is novel, in two of three."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (root / 'images').mkdir(parents=True)
    (root / 'annotations').mkdir()
    labels = ((0, 1), (0, 2), (2, 1))
    for number, (height, width) in enumerate(SIZES):
        name = f'images/{number}.png'
        cv2.imwrite(
            str(root / name),
            rng.integers(0, 255, (height, width, 3), dtype=np.uint8),
        )
        images.append(
            dict(id=number, file_name=name, height=height, width=width)
        )
        for place, label in enumerate(labels[number]):
            x, y = 4 + 24 * place, 6
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=label + 1,
                    bbox=[x, y, 20, 16],
                    area=320,
                    segmentation=[
                        [x, y, x + 20, y, x + 20, y + 16, x, y + 16]
                    ],
                )
            )
    categories = [
        dict(id=i + 1, name=name, frequency='ffr'[i])
        for i, name in enumerate(NAMES)
    ]
    path = root / 'annotations/val.json'
    path.write_text(
        json.dumps(
            dict(images=images, annotations=annotations, categories=categories)
        )
    )
    return path


def stage_configs(root: Path) -> tuple[Config, Config]:
    """Configs of a region-centric pretraining and of a detector."""
    pictures = sorted((root / 'images').glob('*.png'))
    detector = detector_config(root, write_annotations(root, pictures))
    model = detector.model
    roi_head = model.roi_head
    rep = Config(
        dict(
            default_scope='mmdet',
            model=dict(
                type='RegionCentricPretrainer',
                # As in pretraining: no windows.
                backbone=dict(
                    type='DITOViT',
                    **{
                        k: model.backbone[k]
                        for k in ('arch', 'patch_size', 'img_size')
                    },
                ),
                neck=model.neck,
                rpn_head=model.rpn_head,
                roi_head=dict(
                    type='DITORoIHead',
                    bbox_roi_extractor=roi_head.bbox_roi_extractor,
                    bbox_head=roi_head.bbox_head,
                ),
                text_encoder=model.text_encoder,
            ),
            train_dataloader=dict(dataset=dict(size=64)),
        )
    )
    return rep, detector


def write_stage(folder: Path, cfg: Config, meta: dict[str, Any]) -> None:
    """Write the config, the weights and the log of a training."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    log = folder / '20260101_000000' / 'vis_data'
    log.mkdir(parents=True)
    cfg.dump(folder / 'stage.py')
    torch.save(
        dict(state_dict=model.state_dict(), meta=dict(dataset_meta=meta)),
        folder / 'iter_40.pth',
    )
    # As after a move of the folder.
    (folder / 'last_checkpoint').write_text(f'/gone/{folder.name}/iter_40.pth')
    rows = [
        dict(
            step=step,
            iter=step,
            loss=3 * math.exp(-step),
            loss_p2=1 / step,
            recall_p2=0.5,
            loss_p3=2 / step,
            recall_p3=0.25,
            loss_rpn=0.1,
            rpn_target=0.2,
            loss_cls=0.5,
            lr=1e-3,
        )
        for step in (20, 40)
    ]
    (log / 'scalars.json').write_text(
        ''.join(f'{json.dumps(row)}\n' for row in rows)
    )


def write_quickstart(root: Path) -> tuple[Path, Path]:
    """Write all of it; returns the quickstart's and the data's folder."""
    data, quickstart = root / 'data', root / 'quickstart'
    write_data(data)
    meta = dict(classes=tuple(NAMES[:2]), base_classes=tuple(NAMES[:2]))
    for name, cfg in zip(('rep', 'dito'), stage_configs(data), strict=True):
        write_stage(quickstart / name, cfg, meta)
    (quickstart / 'metrics.json').write_text(
        json.dumps(
            dict(
                novel_ap50=0.125,
                base_ap50=0.5,
                novel_mask_ap=0.0625,
                zero_shot_top1=0.75,
                seconds=200,
                stage_seconds=dict(rep=80.2, dito=100),
                commands=dict(rep=['tools/train.py', 'a <b> c.py']),
                extra=3.5,
            )
        )
    )
    return quickstart, data
