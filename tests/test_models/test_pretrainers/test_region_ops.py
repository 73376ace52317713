# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import torch
import torch.nn.functional as F

from dito.models.pretrainers.random_regions import (
    objectness_loss,
    objectness_targets,
    to_rois,
    values_at_centers,
)


def test_rois_name_their_image():
    boxes = torch.rand(2, 3, 4)
    rois = to_rois(boxes)
    assert rois[:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(rois[:, 1:].view(2, 3, 4), boxes)


def test_values_are_read_at_the_centre():
    maps = torch.arange(2 * 3 * 4.0).view(2, 1, 3, 4)
    boxes = torch.tensor(
        [
            [[0.0, 0, 16, 8], [17, 9, 30, 23]],  # centres (8, 4), (23.5, 16)
            [[30.0, 20, 34, 28], [7, 7, 9, 9]],  # (32, 24) is beyond the map
        ]
    )
    found = values_at_centers(maps, boxes, 1 / 8)
    expected = torch.stack(
        [
            torch.stack([maps[0, 0, 0, 1], maps[0, 0, 2, 2]]),
            torch.stack([maps[1, 0, 2, 3], maps[1, 0, 1, 1]]),
        ]
    )
    assert torch.equal(found, expected)


def test_loss_and_gradient_against_a_loop():
    maps = torch.randn(3, 1, 4, 4, requires_grad=True)
    boxes = torch.rand(3, 9, 4) * 16
    boxes[..., 2:] += boxes[..., :2]  # centres may leave the map
    targets = torch.rand(3, 9)
    objectness_loss(maps, boxes, targets, 1 / 8).backward()
    grad = maps.grad.clone()
    maps.grad = None
    total = 0
    for b in range(3):
        for n in range(9):
            x = int((boxes[b, n, 0] + boxes[b, n, 2]) / 2 / 8)
            y = int((boxes[b, n, 1] + boxes[b, n, 3]) / 2 / 8)
            score = maps[b, 0, min(y, 3), min(x, 3)].sigmoid()
            total = total + (score - targets[b, n]).abs()
    (total / 27).backward()
    torch.testing.assert_close(grad, maps.grad)
    assert (grad == 0).any()  # places without a centre are left alone


def test_targets_are_clipped_cosines():
    regions = torch.randn(2, 5, 8, requires_grad=True)
    text = torch.randn(2, 8)
    targets = objectness_targets(regions, text)
    assert not targets.requires_grad
    cosine = F.cosine_similarity(regions, text[:, None], dim=-1)
    torch.testing.assert_close(targets, cosine.clamp(min=0).detach())
    assert (targets == 0).any() and (targets > 0).any()
