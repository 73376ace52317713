# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Box coder of the release."""

import numpy as np
import torch
from mmdet.registry import TASK_UTILS


def test_codes_and_boxes_equal_release(golden):
    arrays = golden('proposals')
    coder = TASK_UTILS.build(dict(type='DITOPlusOneBBoxCoder'))
    anchors, boxes, codes, encoded, decoded = (
        torch.from_numpy(arrays[f'coder/{key}'][:, [1, 0, 3, 2]])
        for key in ('anchors', 'boxes', 'codes', 'encoded', 'decoded'))
    torch.testing.assert_close(
        coder.encode(anchors, boxes), encoded, rtol=0, atol=3e-5)
    torch.testing.assert_close(
        coder.decode(anchors, codes), decoded, rtol=1e-6, atol=2e-5)
    clipped = coder.decode(anchors, codes,
                           arrays['coder/clip_height_width'].tolist())
    np.testing.assert_allclose(
        clipped, arrays['coder/clipped'][0][:, [1, 0, 3, 2]], atol=2e-5)


def test_decode_undoes_encode():
    coder = TASK_UTILS.build(dict(type='DITOPlusOneBBoxCoder'))
    corner = torch.rand(2, 20, 2) * 50
    rois, boxes = torch.cat([corner, corner + 1 + 40 * torch.rand(2, 20, 2)],
                            -1)
    got = coder.decode(rois, coder.encode(rois, boxes))
    torch.testing.assert_close(got, boxes, rtol=0, atol=1e-4)
