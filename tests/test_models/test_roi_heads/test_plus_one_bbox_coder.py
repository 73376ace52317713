# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Box coder of the release."""

import torch
from golden_arrays import ROUNDING, XYXY, close
from mmdet.registry import TASK_UTILS


def test_codes_and_boxes_equal_release(golden):
    arrays = golden('proposals')
    coder = TASK_UTILS.build(dict(type='DITOPlusOneBBoxCoder'))
    anchors, boxes, codes, encoded, decoded = (
        torch.from_numpy(arrays[f'coder/{key}'][:, XYXY])
        for key in ('anchors', 'boxes', 'codes', 'encoded', 'decoded')
    )
    # Differences of coordinates, over a tenth of the box.
    close(coder.encode(anchors, boxes), encoded, 1e-5)
    close(coder.decode(anchors, codes), decoded, ROUNDING)
    clipped = coder.decode(
        anchors, codes, arrays['coder/clip_height_width'].tolist()
    )
    close(
        clipped,
        arrays['coder/clipped'][0][:, XYXY],
        ROUNDING,
        arrays['coder/anchors'].max(),
    )


def test_decode_undoes_encode():
    coder = TASK_UTILS.build(dict(type='DITOPlusOneBBoxCoder'))
    corner = torch.rand(2, 20, 2) * 50
    rois, boxes = torch.cat(
        [corner, corner + 1 + 40 * torch.rand(2, 20, 2)], -1
    )
    got = coder.decode(rois, coder.encode(rois, boxes))
    torch.testing.assert_close(got, boxes, rtol=0, atol=1e-4)
