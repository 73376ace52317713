# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Scores in chunks of classes against those of all classes at once."""

from dataclasses import replace

import pytest
import torch
from test_dito_roi_head import build, inputs, predict
from tiny_detector import vocabulary

from dito.models.roi_heads.box_ops import topk_class_nms
from dito.models.roi_heads.geometric_ensemble import (
    GeometricEnsemble,
    cosine_logits,
    join_logits,
)

CASES = [
    dict(),
    dict(renormalise=True),
    dict(vlm_background=True),
    dict(vlm_background=True, renormalise=True),
    dict(vlm=False),
    dict(vlm=False, renormalise=True),
    dict(objectness_power=3, renormalise=True),
    dict(objectness_power=0.5),
    dict(alpha=0.0, beta=1.0),
]


def make(num, classes, chunk, vlm=True, **options):
    """Chunked scores, and all of them the plain way."""
    ensemble = GeometricEnsemble(**options)
    det, other = torch.randn(2, num, 12).unbind()
    text = torch.randn(classes + 1, 12)
    novel = torch.rand(classes) < 0.3
    objectness = torch.rand(num)
    chunked = ensemble.chunked(
        det,
        other if vlm else None,
        text,
        novel,
        det_temperature=0.02,
        vlm_temperature=0.03,
        objectness=objectness,
        chunk=chunk,
    )
    columns = text if ensemble.vlm_background else text[:-1]
    plain = ensemble(
        cosine_logits(det, text, 0.02),
        cosine_logits(other, columns, 0.03) if vlm else None,
        novel,
        objectness,
    )
    return chunked, plain[:, :-1]


@pytest.mark.parametrize('chunk', [1, 7, 100])
@pytest.mark.parametrize('options', CASES)
def test_all_scores(options, chunk):
    chunked, plain = make(5, 33, chunk, **options)
    assert chunked.shape == (5, 33)
    values, pairs = chunked.best(1000)
    assert len(values) == len(set(pairs.tolist())) == 5 * 33
    assert (values[1:] <= values[:-1]).all()
    torch.testing.assert_close(
        values, plain.flatten()[pairs], rtol=2e-5, atol=1e-9
    )


@pytest.mark.parametrize('topk', [1, 10, 60])
def test_the_best_ones_are_the_best(topk):
    chunked, plain = make(8, 50, 9)
    values, pairs = chunked.best(topk)
    expected, index = plain.flatten().topk(topk)
    torch.testing.assert_close(values, expected, rtol=2e-5, atol=1e-9)
    assert pairs.tolist() == index.tolist()


@pytest.mark.parametrize('renormalise', [True, False])
@pytest.mark.parametrize('flag', [True, False])
def test_only_base_or_only_novel_classes(flag, renormalise):
    ensemble = GeometricEnsemble(0.2, 0.7, renormalise=renormalise)
    novel = torch.full((9,), flag)
    det, text = torch.randn(3, 4), torch.randn(10, 4)
    logits = cosine_logits(det, text, 0.1)
    plain = ensemble(logits, logits[:, :-1], novel)
    assert plain.isfinite().all()
    values, pairs = ensemble.chunked(
        det,
        det,
        text,
        novel,
        det_temperature=0.1,
        vlm_temperature=0.1,
        chunk=4,
    ).best(27)
    torch.testing.assert_close(
        values, plain[:, :-1].flatten()[pairs], rtol=2e-5, atol=1e-9
    )


@pytest.mark.parametrize('topk', [5, 4000])
def test_same_detections_after_nms(topk):
    chunked, plain = make(30, 200, 64)
    corner = torch.rand(30, 2) * 40
    boxes = torch.cat([corner, corner + 10 + torch.rand(30, 2) * 30], 1)
    found = topk_class_nms(boxes, chunked, 1e-4, 0.5, 100, topk)
    expected = topk_class_nms(boxes, plain, 1e-4, 0.5, 100, topk)
    assert len(found[1]) > 20
    torch.testing.assert_close(found[1], expected[1], rtol=2e-5, atol=1e-9)
    for got, wanted in zip(found[2:], expected[2:], strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize('power', [0.0, 3.0])
def test_the_head_uses_chunks_for_large_vocabularies(power, monkeypatch):
    options = dict(
        num_classes=40,
        novel=range(0, 40, 3),
        ensemble=dict(objectness_power=power),
    )
    torch.manual_seed(0)
    plain = build(**options)
    torch.manual_seed(0)
    small = build(class_chunk=16, **options)
    data = inputs()
    expected = predict(plain, data)
    calls = []
    make_scores = small.chunked_scores
    monkeypatch.setattr(
        small,
        'chunked_scores',
        lambda *args: calls.append(1) or make_scores(*args),
    )
    found = predict(small, data)
    assert calls and len(found) == len(expected) > 5
    torch.testing.assert_close(
        found.scores, expected.scores, rtol=1e-4, atol=1e-8
    )
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.bboxes, expected.bboxes)


def test_under_autocast_all_is_float32():
    torch.manual_seed(1)
    expected = make(6, 30, 8)[0].best(50)
    torch.manual_seed(1)
    with torch.autocast('cpu', torch.bfloat16):
        found = make(6, 30, 8)[0].best(50)
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_no_array_of_all_scores_is_made(monkeypatch):
    chunked, _ = make(50, 3000, 100)
    seen = []
    original = torch.Tensor.flatten
    monkeypatch.setattr(
        torch.Tensor,
        'flatten',
        lambda self, *args: seen.append(self.numel()) or original(self),
    )
    chunked.best(20)
    assert max(seen) == 50 * 100 and len(seen) == 30


def grouped(order, groups):
    """Vocabulary of 40 classes in another order, some of them joined."""
    names = vocabulary(40, range(0, 40, 3))
    return names.subset([f'c{i}' for i in order]).group(groups)


GROUPS = dict(a=['c1', 'c30', 'c2'], b=['c7', 'c39'], c0=['c0'])


def test_groups_add_up_their_probabilities():
    logits, groups = torch.randn(5, 6), torch.tensor([0, 2, 1, 2, 2])
    joined = join_logits(logits, groups).softmax(1)
    p = logits.softmax(1)
    wanted = torch.stack(
        [p[:, 0], p[:, 2], p[:, [1, 3, 4]].sum(1), p[:, 5]], 1
    )
    torch.testing.assert_close(joined, wanted)
    assert join_logits(logits, None) is logits
    # A group of one has the very logit.
    assert torch.equal(join_logits(logits, torch.arange(5)), logits)


@pytest.mark.parametrize('renormalise', [False, True])
def test_groups_in_chunks_and_at_once(renormalise):
    options = dict(
        num_classes=40,
        ensemble=dict(renormalise=renormalise, vlm_background=True),
    )
    torch.manual_seed(0)
    plain = build(**options)
    torch.manual_seed(0)
    small = build(class_chunk=7, **options)
    data = inputs()
    for head in plain, small:
        head.set(grouped([*range(39, -1, -1)], GROUPS))
        assert head.bbox_head.num_classes == 37
    wanted, found = predict(plain, data), predict(small, data)
    assert len(found) == len(wanted) > 5
    torch.testing.assert_close(
        found.scores, wanted.scores, rtol=1e-4, atol=1e-8
    )
    assert torch.equal(found.labels, wanted.labels)


def test_names_of_a_group_do_not_find_an_object_twice():
    head, data = build(2), inputs()
    names = vocabulary(2)
    same = replace(names, embeddings=names.embeddings[[0, 0]])
    head.set(same)
    twice = predict(head, data)
    head.set(same.group(dict(both=['c0', 'c1'])))
    once = predict(head, data)
    assert len(once) * 2 == len(twice) and not once.labels.any()
    assert torch.equal(once.bboxes.unique(dim=0), twice.bboxes.unique(dim=0))
