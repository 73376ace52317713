# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import torch
from mmcv.cnn import ConvModule
from mmengine.registry import DefaultScope

from dito.models.layers import DITOLayerNorm2d


def test_normalises_channels_of_each_place():
    norm = DITOLayerNorm2d(5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 3, 4)
    mean = x.mean(1, keepdim=True)
    var = x.var(1, unbiased=False, keepdim=True)
    wanted = (x - mean) / (var + 1e-6).sqrt()
    wanted = wanted * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    out = norm(x)
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_is_a_norm_cfg_under_any_scope():
    cfg = dict(type='DITOLayerNorm2d', eps=1e-6)
    for scope in ('mmdet', 'mmengine'):
        with DefaultScope.overwrite_default_scope(scope):
            module = ConvModule(3, 4, 1, norm_cfg=cfg)
        assert isinstance(module.norm, DITOLayerNorm2d)
        assert module.norm.eps == 1e-6
        assert module.conv.bias is None
