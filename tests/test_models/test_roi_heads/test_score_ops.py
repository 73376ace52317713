# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Cosine logits and the ensemble: equation 2 and golden numbers."""

import math

import numpy as np
import pytest
import torch
from golden_arrays import ROUNDING, close, golden_cases

from dito.models import cosine_logits, ensemble_scores


def numbers(arrays, key):
    return torch.from_numpy(arrays[key])


def last(array):
    """Background is the first column in the release and the last here."""
    return array.roll(-1, dims=-1)


def test_logits_equal_release(golden):
    arrays = golden('ensemble')
    detector, vlm = (float(arrays[f'cfg/{k}'])
                     for k in ('temperature_scale', 'clip_sim_temp'))
    scale = numbers(arrays, 'params/temperature')
    for image, text in enumerate(numbers(arrays, 'in/text_features')):
        features = numbers(arrays, 'in/box_features')[image]
        got = cosine_logits(features, text, detector * scale)
        close(got, arrays['out/detector_logits'][image], ROUNDING)
        # A row of zeros has no direction, so no preference.
        zero = features.abs().sum(1) == 0
        assert not got[zero].any()
        got = cosine_logits(
            numbers(arrays, 'in/vlm_features')[image], text, vlm)
        close(got, arrays['out/vlm_logits'][image], ROUNDING)


@pytest.mark.parametrize('part, indicator', golden_cases(
    'ensemble', r'(\w+)/ensemble_(no|with)_indicator'))
def test_ensemble_equals_release(golden, part, indicator):
    arrays = golden('ensemble')
    alpha, beta = (float(arrays[f'cfg/{k}_vlm_weight'])
                   for k in ('base', 'novel'))
    power = float(arrays['cfg/objectness_weight'])
    for image, base in enumerate(
            numbers(arrays, 'in/base_category_indicator')):
        novel = base[1:] == 0
        if indicator == 'no':
            # Without one the release takes the novel weight for all.
            novel = torch.ones_like(novel)
        key = f'{part}/ensemble_{indicator}_indicator'
        got = ensemble_scores(
            *(last(numbers(arrays, f'{part}/{k}_logits')[image])
              for k in ('detector', 'vlm')), novel, alpha, beta)
        # Exponents of the logits, which are as large as 100.
        close(got, last(numbers(arrays, key)[image]), 10 * ROUNDING)
        key += '_times_objectness'
        if key in arrays:
            got *= numbers(arrays, 'in/rpn_scores')[image][:, None]**power
            close(got, last(numbers(arrays, key)[image]), 10 * ROUNDING)


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
