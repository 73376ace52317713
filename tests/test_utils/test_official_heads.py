# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Converted heads give the numbers of the authors' own modules."""

import numpy as np
import pytest
import torch

from dito.models import DITOBBoxHead, DITOMaskHead, DITORPNHead
from dito.utils.official import (
    convert_box_head,
    convert_mask_head,
    convert_rpn_head,
)

PARTS = dict(
    rpn=convert_rpn_head, fastrcnn=convert_box_head, mask=convert_mask_head)


def params(arrays, part):
    start = f'{part}/params/'
    return {k[len(start):]: v for k, v in arrays.items()
            if k.startswith(start)}


def channels_first(array):
    array = array.reshape(-1, *array.shape[-3:])
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def test_proposal_head(golden):
    arrays = golden('fpn_heads')
    head = DITORPNHead(32, 32)
    head.load_state_dict(convert_rpn_head(params(arrays, 'rpn')))
    levels = (2, 3, 4, 5)
    scores, boxes = head(
        [channels_first(arrays[f'fpn/out/{i}']) for i in levels])
    for i, score, box in zip(levels, scores, boxes, strict=True):
        for got, key in ((score, 'score'), (box, 'box')):
            torch.testing.assert_close(
                got, channels_first(arrays[f'rpn/out/{key}_{i}']), rtol=0,
                atol=5e-6)


def test_box_head(golden):
    arrays = golden('fpn_heads')
    head = DITOBBoxHead(32, 32, conv_out_channels=32, fc_out_channels=64)
    state = convert_box_head(
        params(arrays, 'fastrcnn'), temperature=np.float32([1.25]))
    head.load_state_dict(state)
    assert head.temperature_scale.item() == 1.25
    x = channels_first(arrays['fastrcnn/in/roi_features'])
    expected = arrays['fastrcnn/out/class_outputs'].reshape(-1, 32)
    np.testing.assert_allclose(head.embed(x).detach(), expected, atol=1e-5)
    head.text = torch.randn(3, 32)
    expected = arrays['fastrcnn/out/box_outputs'].reshape(-1, 4)
    np.testing.assert_allclose(
        head(x)[1].detach(), expected[:, [1, 0, 3, 2]], atol=5e-6)


def test_mask_head(golden):
    arrays = golden('fpn_heads')
    head = DITOMaskHead(16, conv_out_channels=16)
    head.load_state_dict(convert_mask_head(params(arrays, 'mask')))
    logits = head(channels_first(arrays['mask/in/roi_features']))
    np.testing.assert_allclose(
        logits[:, 0].detach(), arrays['mask/out/mask_logits'][0], atol=3e-5)


@pytest.mark.parametrize('part', PARTS)
def test_every_parameter_is_needed_and_known(golden, part):
    tree, convert = params(golden('fpn_heads'), part), PARTS[part]
    with pytest.raises(ValueError, match='not known'):
        convert({**tree, 'another/kernel': np.zeros(1)})
    lost = sorted(tree)[0]
    del tree[lost]
    with pytest.raises(ValueError, match=f"'{lost}' is missing"):
        convert(tree)


def test_box_head_of_another_shape_is_refused(golden):
    tree = params(golden('fpn_heads'), 'fastrcnn')
    tree['fc6/kernel'] = tree['fc6/kernel'][:-32]
    with pytest.raises(ValueError, match='no square map of 32 channels'):
        convert_box_head(tree)
