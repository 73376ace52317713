# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import pytest
import torch
from mmdet.registry import MODELS

from dito.models.necks import SimpleFPN


@pytest.mark.parametrize('size', [(4, 6), (5, 7), (1, 1)])
def test_levels(size):
    neck = MODELS.build(dict(type='SimpleFPN', in_channels=16, out_channels=8))
    out = neck((torch.randn(2, 16, *size),))
    height, width = size
    assert [tuple(level.shape) for level in out] == [
        (2, 8, 4 * height, 4 * width),
        (2, 8, 2 * height, 2 * width),
        (2, 8, height, width),
        (2, 8, (height + 1) // 2, (width + 1) // 2),
    ]


def test_coarsest_level_sees_the_last_row():
    neck = SimpleFPN(8, 8).eval()
    x = torch.randn(1, 8, 5, 5)
    other = x.clone()
    other[:, :, 4, 4] += 10
    assert (neck((x,))[3] != neck((other,))[3]).any()


def test_every_parameter_is_trained_and_none_is_a_conv_bias():
    neck = SimpleFPN(16, 8)
    sum(
        level.square().sum() for level in neck((torch.randn(1, 16, 4, 4),))
    ).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    convs = [
        m
        for m in neck.modules()
        if hasattr(m, 'kernel_size') and hasattr(m, 'weight')
    ]
    assert len(convs) == 11
    assert all(conv.bias is None for conv in convs)


def test_epsilon_reaches_every_norm():
    neck = SimpleFPN(16, 8, norm_eps=0.5)
    norms = [m for m in neck.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [0.5] * 9


def test_init_weights_keeps_the_release_variance():
    neck = SimpleFPN(64, 64)
    neck.init_weights()
    for conv, fan_in in (
        (neck.up2, 64 * 4),
        (neck.up4[0], 64 * 4),
        (neck.lateral_convs[2].conv, 64),
        (neck.fpn_convs[0].conv, 64 * 9),
    ):
        assert abs(conv.weight.std() * fan_in**0.5 - 1) < 0.1


def test_wrong_arguments():
    with pytest.raises(ValueError, match='in_channels=18'):
        SimpleFPN(18)
    with pytest.raises(ValueError, match='got 2'):
        SimpleFPN(8)((torch.zeros(1, 8, 2, 2),) * 2)
