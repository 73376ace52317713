# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Cosine logits and the ensemble: equation 2 and golden numbers."""

import math

import numpy as np
import pytest
import torch

from dito.models import cosine_logits, ensemble_scores

# Background is column 0 in the release and the last one here.
LAST = [*range(1, 9), 0]


def numbers(arrays, key):
    return torch.from_numpy(arrays[key])


@pytest.mark.parametrize('image', [0, 1])
def test_logits_equal_release(golden, image):
    arrays = golden('ensemble')
    text = numbers(arrays, 'in/text_features')[image]
    features = numbers(arrays, 'in/box_features')[image]
    scale = numbers(arrays, 'params/temperature')
    got = cosine_logits(features, text, 0.01 * scale)
    np.testing.assert_allclose(
        got, arrays['out/detector_logits'][image], atol=3e-5)
    # One of the rows is zero: no direction, no preference.
    zero = features.abs().sum(1) == 0
    assert zero.sum() <= 1 and not got[zero].any()
    got = cosine_logits(
        numbers(arrays, 'in/vlm_features')[image], text, 0.01)
    np.testing.assert_allclose(
        got, arrays['out/vlm_logits'][image], atol=3e-5)


@pytest.mark.parametrize('image', [0, 1])
@pytest.mark.parametrize('indicator', ['no', 'with'])
@pytest.mark.parametrize('part', ['out', 'mild'])
def test_ensemble_equals_release(golden, image, indicator, part):
    arrays = golden('ensemble')
    novel = numbers(arrays, 'in/base_category_indicator')[image, 1:] == 0
    if indicator == 'no':
        # Without an indicator the release takes the novel weight for all.
        novel = torch.ones_like(novel)
    key = f'{part}/ensemble_{indicator}_indicator'
    got = ensemble_scores(
        numbers(arrays, f'{part}/detector_logits')[image][:, LAST],
        numbers(arrays, f'{part}/vlm_logits')[image][:, LAST],
        novel, alpha=0.35, beta=0.65)
    np.testing.assert_allclose(got, arrays[key][image][:, LAST], atol=2e-7)
    key += '_times_objectness'
    if key in arrays:
        got = got * numbers(arrays, 'in/rpn_scores')[image][:, None]**3
        np.testing.assert_allclose(
            got, arrays[key][image][:, LAST], atol=2e-7)


@pytest.mark.parametrize('renormalise', [True, False])
def test_ensemble_against_equation_2(renormalise):
    det, vlm = torch.randn(3, 5), torch.randn(3, 4)
    novel = torch.tensor([False, True, True, False])
    got = ensemble_scores(det, vlm, novel, 0.2, 0.7, renormalise)
    for row in range(3):
        p = [math.exp(x) for x in det[row]]
        z = [math.exp(x) for x in vlm[row]]
        p, z = [x / sum(p) for x in p], [x / sum(z) for x in z]
        expected = [
            p[i]**(0.3 if novel[i] else 0.8) * z[i]**(0.7 if novel[i] else
                                                      0.2) for i in range(4)
        ] + [p[4]]
        total = sum(expected) if renormalise else 1
        np.testing.assert_allclose(
            got[row], [x / total for x in expected], rtol=1e-5)


def test_no_vlm_means_detector_scores():
    det, novel = torch.randn(3, 5), torch.zeros(4, dtype=torch.bool)
    expected = det.softmax(-1)
    torch.testing.assert_close(ensemble_scores(det, None, novel), expected)
    got = ensemble_scores(det, torch.randn(3, 4), novel, 0, 0)
    torch.testing.assert_close(got, expected)


def test_cosines_are_float32_under_autocast():
    features, text = torch.randn(4, 16), torch.randn(3, 16)
    expected = cosine_logits(features, text, 0.01)
    with torch.autocast('cpu', torch.bfloat16):
        got = cosine_logits(features, text, 0.01)
    assert torch.equal(got, expected)


def test_extreme_logits_stay_finite():
    det = torch.tensor([[100., -100., 0.]])
    got = ensemble_scores(det, -det[:, :2], torch.tensor([False, True]))
    assert got.isfinite().all() and got.sum() == pytest.approx(1)
