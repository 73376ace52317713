# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Both sides of what ``benchmark.py`` measures; here those of detection.

A side is a function for each part of a case ('forward', 'train', 'picture',
'load') and the operations it takes, counted by PyTorch without data. As for
the model FLOP utilisation, second passes that save memory do not count.
"""

import tempfile
from argparse import Namespace
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmark_cases import Case, Setup, Side, Sides
from benchmark_image_text import make_photos, reference_transform
from benchmark_towers import (
    CONFIGS,
    backbone_sides,
    captions,
    pair_flops,
    pair_sides,
    stage_config,
    wrapper_of,
)
from mmcv.transforms import Compose
from mmdet.apis import DetInferencer
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dito.cli.common import load_config
from dito.cli.memory import Setting, detector_memory
from dito.datasets.image_text import CropTransform
from dito.datasets.image_text.image_header import open_image
from dito.engine.throughput import (
    forward_flops,
    vit_flops,
)
from dito.models.text import Vocabulary

# About as many as an image of LVIS has; classes of LVIS-base.
_OBJECTS, _CLASSES = 12, 866
# At most, in both detectors; at any score, since weights are random.
_DETECTIONS = 100
_MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
_PEER = 'Mask R-CNN, ResNet-50'


# ----------------------------------------------------------------- detection


class _Heads(nn.Module):
    """Pyramid and heads, for counting."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.neck = model.neck
        # Anchors follow the copy that is counted.
        self.rpn_head = deepcopy(model.rpn_head)
        self.box = model.roi_head.bbox_head
        self.mask = model.roi_head.mask_head

    def forward(self, feat: Tensor, boxes: Tensor, masks: Tensor) -> Any:
        """Run all on a map and on crops of its pyramid."""
        maps = self.rpn_head(self.neck((feat,)))
        return maps, self.box.regions(boxes), self.mask(masks)


def detector_config(case: Case) -> Config:
    """Model of a case of stage 3 with a teacher, without a text tower."""
    model = stage_config(case).model
    del model['text_encoder']
    model.teacher = dict(checkpoint='none is read')
    model.data_preprocessor.pad_size_divisor = case.side
    model.test_cfg.rcnn.max_per_img = _DETECTIONS
    _limit_boxes(model, case)
    return model


def detector(case: Case) -> nn.Module:
    """That model with a vocabulary."""
    built = MODELS.build(detector_config(case))
    built._teacher.backbone = deepcopy(built.backbone)
    built._teacher.backbone.requires_grad_(False).eval()
    built.set_vocabulary(_names(built.roi_head.bbox_head.embed_dims))
    return built


def _limit_boxes(model: Config, case: Case) -> None:
    """Let a detector of MMDetection's kind have fewer RoIs."""
    if case.boxes:
        model.train_cfg.rcnn.sampler.num = case.boxes
        model.test_cfg.rpn.max_per_img = case.boxes


def _names(dims: int, number: int = _CLASSES) -> Vocabulary:
    """Random embeddings of names."""
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(number + 1, dims, generator=generator))
    return Vocabulary(
        tuple(f'c{i}' for i in range(number)),
        rows[:-1],
        rows[-1],
        torch.zeros(number, dtype=torch.bool),
        'random numbers',
    )


def detector_flops(model: nn.Module, case: Case) -> dict[str, int]:
    """Operations of a batch of stage 3, by part of a case.

    Of the masks in training those of the annotated boxes alone count, which
    a detector that has learnt nothing is left with. The distillation's
    projection and the classifier are left out.
    """
    side = case.side
    tower = vit_flops(model.backbone, (side, side))
    cells = -(-side // model.backbone.patch_size)
    width = model.neck.fpn_convs[0].conv.out_channels
    dims = model.roi_head.bbox_head.embed_dims

    def heads(boxes: int, masks: int) -> int:
        shapes = (1, dims, cells, cells), (boxes, width, 7, 7)
        shapes += ((masks, width, 14, 14),)
        inputs = [torch.empty(s, device='meta') for s in shapes]
        return forward_flops(_Heads(model), *inputs)

    found = heads(model.test_cfg.rpn.max_per_img, _DETECTIONS)
    trained = heads(model.train_cfg.rcnn.sampler.num, _OBJECTS)
    # The teacher is as large as the trained one and goes forward only.
    return dict(
        forward=case.batch * (tower + found),
        train=case.batch * (4 * tower + 3 * trained),
    )


def _objects(case: Case, classes: int) -> dict[str, Any]:
    """A raw batch of noise with objects and masks."""
    return demo_mm_inputs(
        case.batch,
        [(3, case.side, case.side)] * case.batch,
        num_items=[_OBJECTS] * case.batch,
        num_classes=classes,
        with_mask=True,
    )


def _detector_sides(case: Case, setup: Setup) -> Sides:
    torch.manual_seed(0)
    model = detector(case)
    flops = detector_flops(model, case)
    optimizer = stage_config(case).optim_wrapper
    ours = _detector_side('DITO', model, optimizer, case, setup)
    ours.flops = flops
    cfg = detector_config(case)

    def said() -> float:
        return detector_memory(cfg, case.batch, case.side, setup.bf16)

    if case.size == 'symbols':  # nothing compares with so small a network
        return Sides(ours, memory=said)
    return Sides(ours, lambda: _mask_rcnn_side(case, setup), said)


def _detector_side(
    name: str, model: nn.Module, optimizer: Any, case: Case, setup: Setup
) -> Side:
    """A detector of MMDetection's kind, from pictures to weights or masks."""
    model.to(setup.device).train()
    wrapper = wrapper_of(optimizer, model, setup)
    batch = _objects(case, 3)

    @torch.no_grad()
    def forward() -> Any:
        model.eval()
        with setup.cast():
            return model.test_step(batch)

    def train() -> Any:
        model.train()
        return model.train_step(batch, wrapper)

    return Side(name, dict(forward=forward, train=train))


def _mask_rcnn_config(case: Case) -> Config:
    """MMDetection's Mask R-CNN with ResNet-50, without weights."""
    cfg = get_config(_MASK_RCNN)
    _limit_boxes(cfg.model, case)
    cfg.model.backbone.init_cfg = None
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    cfg.model.test_cfg.rcnn.max_per_img = _DETECTIONS
    return cfg


def _mask_rcnn_side(case: Case, setup: Setup) -> Side:
    torch.manual_seed(0)
    cfg = _mask_rcnn_config(case)
    model = MODELS.build(cfg.model)
    side = _detector_side(_PEER, model, cfg.optim_wrapper, case, setup)
    for part, call in side.calls.items():
        with FlopCounterMode(display=False) as counter:
            call()
        side.flops[part] = counter.get_total_flops()
    return side


# ------------------------------------------------------- pictures and loaders


def _picture_sides(case: Case, setup: Setup) -> Sides:
    """From a picture in memory to boxes and masks, as a user calls it.

    In float32, whatever the other cases run in.
    """
    from dito.apis import DITOInferencer

    torch.manual_seed(0)
    shape = 3 * case.side // 4, case.side, 3
    picture = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    cfg = stage_config(replace(case, stage='stage 3'))
    cfg.model.text_encoder = None
    _limit_boxes(cfg.model, case)
    cfg.model.test_cfg.rcnn.max_per_img = _DETECTIONS
    cfg.model.data_preprocessor.pad_size_divisor = case.side
    names = _names(cfg.model.roi_head.bbox_head.embed_dims, 80)
    inferencer = DITOInferencer(
        _resized(cfg, case.side), vocabulary=names, device=setup.device
    )

    def other() -> Side:
        cfg = _resized(_mask_rcnn_config(case), case.side)
        theirs = DetInferencer(cfg, device=setup.device, show_progress=False)
        return Side(_PEER, dict(picture=lambda: theirs(picture)))

    call = partial(inferencer, picture, score_thr=0.0)
    ours = Side('DITOInferencer', dict(picture=call))
    return Sides(ours, None if case.size == 'symbols' else other)


def _resized(cfg: Config, side: int) -> Config:
    """Test on pictures whose longer side is of a size."""
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (side, side)
    return cfg


def _loader_sides(case: Case, setup: Setup) -> Sides:
    """What one worker of a loader does with encoded pictures."""
    if case.size == 'pairs':
        return _pair_loader(case)
    cfg = stage_config(Case('stage 3', 'small', case.side))
    steps = cfg.train_dataloader.dataset.pipeline
    for step in steps:
        for key in ('scale', 'crop_size'):
            if key in step:
                step[key] = (case.side, case.side)
    theirs = deepcopy(steps)
    theirs[0] = dict(type='LoadImageFromFile')
    (photo,) = make_photos(1, 480, 640, 90)
    file = tempfile.NamedTemporaryFile(suffix='.jpg')  # noqa: SIM115
    file.write(photo)
    file.flush()

    def side(name: str, pipeline: Any) -> Side:
        compose = Compose(pipeline)

        def load() -> None:
            np.random.seed(0)
            for _ in range(case.batch):
                compose(_annotated(file.name))

        return Side(name, dict(load=load))

    return Sides(
        side('loader of boxes', steps),
        lambda: side("MMDetection's loading", theirs),
    )


def _annotated(path: str) -> dict[str, Any]:
    """A picture of 640 x 480 pixels with objects, as a data set gives it."""
    boxes = [[40 * i, 30 * i, 40 * i + 90, 30 * i + 90] for i in range(12)]
    return dict(
        img_path=path,
        img_id=0,
        height=480,
        width=640,
        instances=[
            dict(
                bbox=[x, y, u, v],
                bbox_label=0,
                ignore_flag=0,
                mask=[[x, y, u, y, u, v, x, v]],
            )
            for x, y, u, v in boxes
        ],
    )


def _pair_loader(case: Case) -> Sides:
    """Pictures of 640 x 480 pixels to crops, against open_clip's."""
    photos = make_photos(min(case.batch, 16), 480, 640, 90)
    photos = [photos[i % len(photos)] for i in range(case.batch)]
    scale = load_config(CONFIGS['stage 1'][0].format('s'))
    scale = scale.train_dataloader.dataset.scale
    ours = CropTransform(case.side, scale=scale)
    rng = np.random.default_rng(0)

    def other() -> Side:
        args = Namespace(img_size=case.side, scale=scale)
        theirs = reference_transform(args)
        return Side(
            'open_clip',
            dict(load=lambda: [theirs(open_image(p)) for p in photos]),
        )

    return Sides(
        Side(
            'loader of pairs',
            dict(load=lambda: [ours(p, rng) for p in photos]),
        ),
        other,
    )


_MAKERS: dict[str, Callable[[Case, Setup], Sides]] = {
    'backbone': backbone_sides,
    'stage 1': pair_sides,
    'stage 2': pair_sides,
    'stage 3': _detector_sides,
    'picture': _picture_sides,
    'loader': _loader_sides,
}


def sides_of(case: Case, setup: Setup) -> Sides:
    """Build what a case compares."""
    init_default_scope('mmdet')
    if not MMLogger.check_instance_created('benchmark'):
        MMLogger.get_instance('benchmark', log_level='ERROR')
    return _MAKERS[case.stage](case, setup)


def operations(case: Case) -> dict[str, int]:
    """Operations of each part of a case; nothing is built or run.

    Args:
        case (Case): Of any stage.

    Returns:
        dict[str, int]: As of the sides; empty where none are counted.
    """
    init_default_scope('mmdet')
    # Names are looked up in the rows of the tower of `symbols`.
    device = 'cpu' if case.size == 'symbols' else 'meta'
    with torch.device(device):
        if case.stage == 'backbone':
            tower = Setting(case.size, 1, case.side, swl=case.swl).tower()
            flops = case.batch * vit_flops(tower, (case.side, case.side))
            return dict(forward=flops, train=3 * flops)
        if case.stage in ('stage 1', 'stage 2'):
            model = MODELS.build(stage_config(case).model)
        elif case.stage == 'stage 3':
            return detector_flops(detector(case), case)
        else:
            return {}
    shape = case.batch, 3, case.side, case.side
    inputs = torch.empty(shape, device='meta')
    batch = dict(inputs=inputs, texts=captions(case.batch))
    flops = pair_flops(model, batch)
    return dict(train=flops['train']) if case.micro_batch else flops
