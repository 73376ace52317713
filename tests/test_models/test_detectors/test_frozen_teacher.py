# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The frozen teacher: invisible to the detector, exact, never trained."""

import copy

import pytest
import torch
from tiny_detector import batch, build, pretrained, vocabulary

DISTILL = dict(loss_distill=dict(type='DITOCosineDistillLoss'))


@pytest.fixture
def checkpoint(tmp_path):
    """Weights of a pretrained tiny backbone."""
    return pretrained(tmp_path)


def student(checkpoint, own_shift='swl', **teacher):
    model = build(
        backbone=dict(shift=own_shift),
        roi_head=DISTILL,
        teacher=dict(checkpoint=checkpoint, **teacher),
    )
    model.set_vocabulary(vocabulary(3))
    return model


def loss(model):
    data = model.data_preprocessor(batch(), True)
    return model(**data, mode='loss')


def test_it_is_not_part_of_the_model(checkpoint):
    plain = build(roi_head=DISTILL)
    model = student(checkpoint)
    model.init_weights()
    assert model._teacher.backbone is not None
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert {n for n, _ in model.named_parameters()} == {
        n for n, _ in plain.named_parameters()
    }


def test_inference_needs_no_file():
    model = student('/does/not/exist.pth').eval()
    with torch.no_grad():
        assert len(model.test_step(batch())) == 2
    assert model._teacher.backbone is None


def test_it_keeps_its_weights_and_mode_in_training(checkpoint):
    model = student(checkpoint).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total, _ = model.parse_losses(loss(model))
    before = copy.deepcopy(model._teacher.backbone.state_dict())
    total.backward()
    optimizer.step()
    model.train()
    teacher = model._teacher.backbone
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    expected = torch.load(checkpoint, weights_only=True)['state_dict']
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, before[key])
        assert torch.equal(value, expected[f'backbone.{key}'])


def equal_weights(checkpoint, **kwargs):
    """A student of the teacher's weights, its projection the identity."""
    model = student(checkpoint, **kwargs)
    model.load_state_dict(
        torch.load(checkpoint, weights_only=True)['state_dict'], strict=False
    )
    return model


@pytest.mark.parametrize('own_shift', [None, 'swl'])
def test_no_distance_at_the_start(checkpoint, own_shift):
    # Same weights, same windows and an identity projection: nothing to learn.
    model = equal_weights(checkpoint, own_shift=own_shift)
    losses = loss(model)
    assert losses['loss_distill'].item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        model.roi_head.vlm_proj.weight.normal_()
    assert loss(model)['loss_distill'].item() > 0.1


def test_other_windows_are_a_distance_at_the_start(checkpoint):
    """An unshifted teacher is not what z of a shifted student is read from."""
    losses = []
    for overrides in (dict(), dict(shift=None), dict(window=None)):
        model = equal_weights(checkpoint, **overrides)
        with torch.no_grad():
            # Weights of a new tower attend to hardly anything.
            for tower in (model.backbone, teacher_of(model)):
                for block in tower.blocks:
                    block.attn.qkv.weight.mul_(30)
        losses.append(loss(model)['loss_distill'].item())
    assert losses[0] == pytest.approx(0, abs=1e-5)
    assert min(losses[1:]) > 1e-3


def teacher_of(model):
    model._teacher.build(torch.device('cpu'))
    return model._teacher.backbone


@pytest.mark.parametrize(
    'overrides, expected',
    [
        ({}, dict(shift='swl', shift_size=1, average_after_norm=True)),
        ({'shift': None}, dict(shift=None)),
        ({'shift': 'swin'}, dict(shift='swin')),
        ({'window': None}, dict(shift=None, window=None)),
    ],
)
def test_windows_of_the_teacher(checkpoint, overrides, expected):
    image = torch.randn(1, 3, 128, 128)
    own = dict(shift='swl', shift_size=1, average_after_norm=True)
    alone = build(
        backbone={**(own if expected['shift'] == 'swl' else {}), **expected}
    )
    alone.load_state_dict(torch.load(checkpoint)['state_dict'])
    with torch.no_grad():
        wanted = alone.backbone(image)[-1]
    model = build(
        backbone=own,
        roi_head=DISTILL,
        teacher=dict(checkpoint=checkpoint, **overrides),
    )
    torch.testing.assert_close(model._teacher(image), wanted)


def test_it_follows_the_model_to_another_type(checkpoint):
    model = student(checkpoint)
    model.init_weights()
    model.double()
    types = {p.dtype for p in model._teacher.backbone.parameters()}
    assert types == {torch.float64}


def test_copies_share_it(checkpoint):
    model = student(checkpoint)
    model.init_weights()
    assert copy.deepcopy(model)._teacher is model._teacher


def test_errors_say_what_is_wrong(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        student('/does/not/exist.pth').init_weights()
    with pytest.raises(ValueError, match="starts with 'tower.'"):
        student(checkpoint, prefix='tower.').init_weights()
    small = dict(embed_dims=16, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match='does not fit'):
        student(checkpoint, arch=small, global_layers=0).init_weights()
    with pytest.raises(ValueError, match='without roi_head.loss_distill'):
        build(teacher=dict(checkpoint=checkpoint))
    model = build(roi_head=DISTILL)
    model.set_vocabulary(vocabulary(3))
    with pytest.raises(ValueError, match='give the detector a teacher'):
        loss(model)
