# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What names may change in detections, and what they may not.

Exactly this holds, and is tested: the boxes of the regions come from the
image alone, so no list of names changes a box before class-wise NMS and the
choice of the best. Both p and z are softmaxes over the names, so a further
name scales the scores of all base names of a region by one factor and those
of all novel names by another; the order of the names within each of the two
groups stays. Detections after NMS may change: new names take places among
the best, and the factors differ between regions.
"""

import pytest
import torch
from tiny_detector import batch, build, vocabulary

from dito.models import Vocabulary

NOVEL = (1, 4)


def make(**kwargs):
    """A detector with weights far from their start."""
    torch.manual_seed(0)
    model = build(**kwargs)
    model.init_weights()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
        # No score should be 1 up to rounding.
        model.roi_head.bbox_head.temperature_scale.fill_(20.0)
        model.roi_head.vlm_temperature = 0.2
    model.set_vocabulary(vocabulary(6, NOVEL))
    return model.eval()


@torch.no_grad()
def detect(model):
    return [s.pred_instances for s in model.test_step(batch())]


@torch.no_grad()
def regions(model):
    """Boxes (N, 4) and scores (N, K + 1) before NMS, of each image."""
    kept, model.roi_head.test_cfg = model.roi_head.test_cfg, None
    mask, model.roi_head.mask_head = model.roi_head.mask_head, None
    try:
        return detect(model)
    finally:
        model.roi_head.test_cfg, model.roi_head.mask_head = kept, mask


def more_names(model, num):
    """The model's names and others that have nothing to do with them."""
    old, other = model.vocabulary, vocabulary(num, seed=9)
    return Vocabulary(
        old.names + tuple(f'other {n}' for n in other.names),
        torch.cat([old.embeddings, other.embeddings]),
        old.background,
        torch.cat([old.novel, other.novel]),
        old.fingerprint,
    )


@pytest.mark.parametrize('novel', [(), NOVEL, range(6)])
def test_permuted_names_permute_labels_and_nothing_else(novel):
    model, order = make(), [3, 5, 0, 2, 4, 1]
    names = vocabulary(6, novel)
    model.set_vocabulary(names)
    before, whole = detect(model), regions(model)
    model.set_vocabulary(names.subset([f'c{i}' for i in order]))
    for old, new in zip(before, detect(model), strict=True):
        assert len(new) == len(old) > 5
        assert torch.equal(torch.tensor(order)[new.labels], old.labels)
        assert torch.equal(new.bboxes, old.bboxes)
        assert torch.equal(
            torch.as_tensor(new.masks), torch.as_tensor(old.masks)
        )
        torch.testing.assert_close(new.scores, old.scores)
    for old, new in zip(whole, regions(model), strict=True):
        assert torch.equal(new.bboxes, old.bboxes)
        torch.testing.assert_close(new.scores, old.scores[:, [*order, 6]])


@pytest.mark.parametrize('renormalise', [True, False])
def test_unrelated_names_change_no_box_and_no_order(renormalise):
    model = make(roi_head=dict(ensemble=dict(renormalise=renormalise)))
    before = regions(model)
    model.set_vocabulary(more_names(model, 30))
    after = regions(model)
    groups = (list(NOVEL), [i for i in range(6) if i not in NOVEL])
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new.bboxes, old.bboxes)
        assert new.scores.shape[1] == 37
        for group in groups:
            ratio = new.scores[:, group] / old.scores[:, group]
            torch.testing.assert_close(
                ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3, atol=0
            )
            if not renormalise:
                assert (ratio <= 1 + 1e-5).all()
            assert torch.equal(
                new.scores[:, group].argsort(dim=1),
                old.scores[:, group].argsort(dim=1),
            )


def test_weight_0_is_p_and_weight_1_is_z():
    model = make()
    head = model.roi_head
    pieces = {}

    def spy(det, vlm, objectness, classes=None):
        pieces.setdefault('p', []).append(det.softmax(1))
        pieces.setdefault('z', []).append(vlm.softmax(1))
        return real(det, vlm, objectness, classes)

    real, head.score = head.score, spy
    for weight, wanted in ((0.0, 'p'), (1.0, 'z')):
        head.ensemble.alpha = head.ensemble.beta = weight
        pieces.clear()
        for image, found in enumerate(regions(model)):
            torch.testing.assert_close(
                found.scores[:, :6], pieces[wanted][image][:, :6]
            )
            # The background has p alone, whatever the weights.
            torch.testing.assert_close(
                found.scores[:, 6], pieces['p'][image][:, 6]
            )
    # Each group goes by its own weight.
    head.ensemble.alpha, head.ensemble.beta = 0.0, 1.0
    pieces.clear()
    for image, found in enumerate(regions(model)):
        novel = model.vocabulary.novel
        p, z = (pieces[k][image][:, :6] for k in 'pz')
        torch.testing.assert_close(
            found.scores[:, :6], torch.where(novel, z, p)
        )


def test_weight_0_needs_no_vlm_score():
    model = make()
    ensemble = model.roi_head.ensemble
    ensemble.alpha = ensemble.beta = 0.0
    whole = detect(model)
    model.roi_head.vlm_roi_extractor = None
    for old, new in zip(whole, detect(model), strict=True):
        assert torch.equal(new.labels, old.labels)
        torch.testing.assert_close(new.scores, old.scores)
