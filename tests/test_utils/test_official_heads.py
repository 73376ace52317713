# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Converted heads give the numbers of the authors' own modules."""

import numpy as np
import pytest
import torch
from golden_arrays import XYXY, close, group, levels

from dito.models import DITOBBoxHead, DITOMaskHead, DITORPNHead
from dito.utils.official import (
    convert_box_head,
    convert_mask_head,
    convert_rpn_head,
)

PARTS = dict(
    rpn=convert_rpn_head, fastrcnn=convert_box_head, mask=convert_mask_head
)


def params(arrays, part):
    return group(arrays, f'{part}/params/')


def channels_first(array):
    array = array.reshape(-1, *array.shape[-3:])
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def test_proposal_head(golden):
    arrays = golden('fpn_heads')
    head = DITORPNHead(
        *(int(arrays[f'{k}/cfg/num_filters']) for k in ('fpn', 'rpn'))
    )
    head.load_state_dict(convert_rpn_head(params(arrays, 'rpn')))
    numbers = levels(arrays, 'fpn/out/')
    scores, boxes = head(
        [channels_first(arrays[f'fpn/out/{i}']) for i in numbers]
    )
    for i, score, box in zip(numbers, scores, boxes, strict=True):
        for got, key in ((score, 'score'), (box, 'box')):
            close(got, channels_first(arrays[f'rpn/out/{key}_{i}']))


def test_box_head(golden):
    arrays = golden('fpn_heads')
    x = channels_first(arrays['fastrcnn/in/roi_features'])
    embed_dims, width = (
        int(arrays[f'fastrcnn/cfg/{k}'])
        for k in ('num_classes', 'num_filters')
    )
    head = DITOBBoxHead(
        x.shape[1],
        embed_dims,
        conv_out_channels=width,
        fc_out_channels=int(arrays['fastrcnn/cfg/fc_dims']),
    )
    state = convert_box_head(
        params(arrays, 'fastrcnn'), temperature=np.float32([1.25])
    )
    head.load_state_dict(state)
    assert head.temperature_scale.item() == 1.25
    expected = arrays['fastrcnn/out/class_outputs']
    close(head.embed(x), expected.reshape(-1, embed_dims))
    head.text = torch.randn(3, embed_dims)
    expected = arrays['fastrcnn/out/box_outputs'].reshape(-1, 4)
    close(head(x)[1], expected[:, XYXY])


def test_mask_head(golden):
    arrays = golden('fpn_heads')
    x = channels_first(arrays['mask/in/roi_features'])
    head = DITOMaskHead(
        x.shape[1], conv_out_channels=int(arrays['mask/cfg/num_filters'])
    )
    head.load_state_dict(convert_mask_head(params(arrays, 'mask')))
    expected = arrays['mask/out/mask_logits']
    close(head(x)[:, 0], expected.reshape(-1, *expected.shape[2:]))


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
    width = tree['conv_0/kernel'].shape[-1]
    tree['fc6/kernel'] = tree['fc6/kernel'][:-width]
    with pytest.raises(ValueError, match=f'no square map of {width} channels'):
        convert_box_head(tree)
