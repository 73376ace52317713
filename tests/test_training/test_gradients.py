# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""In every stage each trainable parameter learns, and no frozen one."""

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from dito.utils.configs import config_root

SIZE = 96
SHIPPED = config_root() / 'symbols/assets/clip_symbols.safetensors'
# Frozen, by stage: the teacher is not among a detector's parameters at all.
STAGES = {
    'symbols/clip_symbols': (),
    'symbols/rep_symbols': ('backbone.', 'text_encoder.'),
    'symbols/dito_symbols': ('text_encoder.',),
    'ablations/rovit_symbols': ('text_encoder.',),
    'ablations/fvlm_symbols': ('backbone.', 'text_encoder.'),
}
# Parts that image-text pairs say nothing about; frozen in stage 2.
REP_FROZEN = (
    'rpn_head.rpn_reg.',
    'roi_head.bbox_head.fc_reg.',
    'roi_head.bbox_head.temperature_scale',
)


def detection_batch() -> dict:
    """Two pictures with objects of several sizes."""
    inputs, samples = [], []
    for shift in (0, 6):
        boxes = torch.tensor(
            [
                [4.0, 4.0, 30.0, 34.0],
                [40.0, 8.0, 90.0, 60.0],
                [10.0, 50.0, 34.0, 90.0],
            ]
        )
        boxes[:, :2] += shift
        masks = np.zeros((3, SIZE, SIZE), np.uint8)
        for mask, (x, y, right, down) in zip(
            masks, boxes.int().tolist(), strict=True
        ):
            mask[y:down, x:right] = 1
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(SIZE, SIZE),
                ori_shape=(SIZE, SIZE),
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.tensor([0, 1, 2]),
            masks=BitmapMasks(masks, SIZE, SIZE),
        )
        inputs.append(
            torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8)
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def build(name: str) -> Any:
    """A model as its training builds it, in training mode."""
    cfg = Config.fromfile(config_root() / f'{name}.py')
    init_default_scope('mmdet')
    if cfg.model.type == 'DITO':
        cfg.model.data_preprocessor.pad_size_divisor = SIZE
        # All anchors, so that the few of the coarsest map are among them.
        cfg.model.train_cfg.rpn.sampler.num = 4000
        if cfg.model.teacher:
            cfg.model.teacher.checkpoint = str(SHIPPED)
    model = MODELS.build(cfg.model)
    model.init_weights()
    with torch.no_grad():
        # From zeros and identities no gradient need flow on.
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.train()


def total_loss(model: Any) -> torch.Tensor:
    if type(model).__name__ == 'DITO':
        model.build_vocabulary(
            ['anchor', 'umbrella', 'star'], templates='none'
        )
        batch = detection_batch()
    else:
        batch = dict(
            inputs=torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8),
            texts=['a red anchor', 'a star', 'an umbrella', 'a blue star'],
        )
    data = model.data_preprocessor(batch, True)
    return model.parse_losses(model(**data, mode='loss'))[0]


@pytest.mark.parametrize('stage', STAGES)
def test_gradients(stage: str) -> None:
    model, frozen = build(stage), STAGES[stage]
    if 'rep' in stage:
        frozen += REP_FROZEN
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2
    )
    total = total_loss(model)
    assert torch.isfinite(total)
    total.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if name.startswith(frozen) and frozen:
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
            assert torch.equal(parameter, before[name]), name
        else:
            assert parameter.requires_grad, name
            assert parameter.grad is not None and parameter.grad.any(), name
    for name in ('text_encoder', 'backbone'):
        if f'{name}.' in frozen:
            tower = getattr(model, name)
            assert not [
                m
                for m in tower.modules()
                if m.training
                and m is not tower
                and list(m.parameters(recurse=False))
            ]


def test_teacher_is_in_no_list_of_the_detector() -> None:
    model = build('symbols/dito_symbols')
    total_loss(model)
    teacher = model._teacher.backbone
    assert teacher is not None and not teacher.training
    ours = {id(p) for p in model.parameters()}
    theirs = [p for p in teacher.parameters()]
    assert theirs and not ours & {id(p) for p in theirs}
    assert not any(p.requires_grad for p in theirs)
    stored = {t.data_ptr() for t in model.state_dict().values()}
    assert not stored & {t.data_ptr() for t in teacher.state_dict().values()}
    assert not [k for k in model.state_dict() if 'teacher' in k]
