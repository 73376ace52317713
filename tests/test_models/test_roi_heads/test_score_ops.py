# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Cosine logits and the ensemble: equation 2 and golden numbers."""

import math

import numpy as np
import pytest
import torch
from golden_arrays import ROUNDING, close, golden_cases

from dito.models import GeometricEnsemble, cosine_logits


def numbers(arrays, key):
    return torch.from_numpy(arrays[key])


def last(array):
    """Background is the first column in the release and the last here."""
    return array.roll(-1, dims=-1)


def test_logits_equal_release(golden):
    arrays = golden('ensemble')
    detector, vlm = (
        float(arrays[f'cfg/{k}'])
        for k in ('temperature_scale', 'clip_sim_temp')
    )
    scale = numbers(arrays, 'params/temperature')
    for image, text in enumerate(numbers(arrays, 'in/text_features')):
        features = numbers(arrays, 'in/box_features')[image]
        got = cosine_logits(features, text, detector * scale)
        close(got, arrays['out/detector_logits'][image], ROUNDING)
        # A row of zeros has no direction, so no preference.
        zero = features.abs().sum(1) == 0
        assert not got[zero].any()
        got = cosine_logits(
            numbers(arrays, 'in/vlm_features')[image], text, vlm
        )
        close(got, arrays['out/vlm_logits'][image], ROUNDING)


@pytest.mark.parametrize(
    'part, indicator',
    golden_cases('ensemble', r'(\w+)/ensemble_(no|with)_indicator'),
)
def test_ensemble_equals_release(golden, part, indicator):
    arrays = golden('ensemble')
    alpha, beta = (
        float(arrays[f'cfg/{k}_vlm_weight']) for k in ('base', 'novel')
    )
    power = float(arrays['cfg/objectness_weight'])
    for image, base in enumerate(
        numbers(arrays, 'in/base_category_indicator')
    ):
        novel = base[1:] == 0
        if indicator == 'no':
            # Without one the release takes the novel weight for all.
            novel = torch.ones_like(novel)
        key = f'{part}/ensemble_{indicator}_indicator'
        logits = [
            last(numbers(arrays, f'{part}/{k}_logits')[image])
            for k in ('detector', 'vlm')
        ]
        got = GeometricEnsemble(alpha, beta, renormalise=True)(*logits, novel)
        # Exponents of the logits, which are as large as 100.
        close(got, last(numbers(arrays, key)[image]), 10 * ROUNDING)
        key += '_times_objectness'
        if key in arrays:
            got = GeometricEnsemble(
                alpha, beta, renormalise=True, objectness_power=power
            )(*logits, novel, numbers(arrays, 'in/rpn_scores')[image])
            close(got, last(numbers(arrays, key)[image]), 10 * ROUNDING)


def equation_2(
    det,
    vlm,
    novel,
    objectness,
    alpha,
    beta,
    renormalise=False,
    vlm_background=False,
    objectness_power=0.0,
):
    """Scores of one region, number by number, background last."""
    num = len(novel)
    p = [math.exp(x) for x in det]
    z = [math.exp(x) for x in vlm[: num + vlm_background]]
    p, z = [x / sum(p) for x in p], [x / sum(z) for x in z]
    scores = []
    for i in range(num):
        weight = beta if novel[i] else alpha
        scores.append(p[i] ** (1 - weight) * z[i] ** weight)
    scores.append(p[num])
    total = sum(scores) if renormalise else 1
    return [x / total * objectness**objectness_power for x in scores]


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(renormalise=True),
        dict(vlm_background=True),
        dict(objectness_power=3),
        dict(objectness_power=0.5, renormalise=True),
        dict(renormalise=True, vlm_background=True, objectness_power=3),
    ],
)
def test_ensemble_against_equation_2(options):
    det, vlm, objectness = torch.randn(3, 5), torch.randn(3, 5), torch.rand(3)
    novel = torch.tensor([False, True, True, False])
    columns = 5 if options.get('vlm_background') else 4
    got = GeometricEnsemble(0.2, 0.7, **options)(
        det, vlm[:, :columns], novel, objectness
    )
    for row in range(3):
        expected = equation_2(
            det[row].tolist(),
            vlm[row].tolist(),
            novel,
            float(objectness[row]),
            0.2,
            0.7,
            **options,
        )
        np.testing.assert_allclose(got[row], expected, rtol=1e-5)


def test_the_printed_exponents():
    """z^(1 - 0.3) for base classes and z^(1 - 0.65) for novel ones."""
    det, vlm = torch.randn(2, 3), torch.randn(2, 2)
    p, z = det.softmax(1), vlm.softmax(1)
    got = GeometricEnsemble(0.7, 0.35)(det, vlm, torch.tensor([False, True]))
    torch.testing.assert_close(got[:, 0], z[:, 0] ** 0.7 * p[:, 0] ** 0.3)
    torch.testing.assert_close(got[:, 1], z[:, 1] ** 0.35 * p[:, 1] ** 0.65)
    torch.testing.assert_close(got[:, 2], p[:, 2])


@pytest.mark.parametrize('renormalise', [True, False])
def test_no_vlm_means_detector_scores(renormalise):
    det, novel = torch.randn(3, 5), torch.tensor([True, False, True, False])
    expected = det.softmax(-1)
    ensemble = GeometricEnsemble(renormalise=renormalise)
    torch.testing.assert_close(ensemble(det, None, novel), expected)
    ensemble.alpha = ensemble.beta = 0
    torch.testing.assert_close(
        ensemble(det, torch.randn(3, 4), novel), expected
    )


def test_a_region_without_objectness_has_score_0():
    ensemble = GeometricEnsemble(objectness_power=3)
    got = ensemble(
        torch.randn(2, 4),
        torch.randn(2, 3),
        torch.zeros(3, dtype=torch.bool),
        torch.tensor([0.0, 1.0]),
    )
    assert (got[0] == 0).all() and (got[1] > 0).all()


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(alpha=1.2), 'alpha is 1.2'),
        (dict(beta=-0.1), 'beta is -0.1'),
        (dict(objectness_power=-1), 'objectness_power is -1'),
    ],
)
def test_wrong_exponents(options, message):
    with pytest.raises(ValueError, match=message):
        GeometricEnsemble(**options)


def test_cosines_are_float32_under_autocast():
    features, text = torch.randn(4, 16), torch.randn(3, 16)
    expected = cosine_logits(features, text, 0.01)
    with torch.autocast('cpu', torch.bfloat16):
        got = cosine_logits(features, text, 0.01)
    assert torch.equal(got, expected)


def test_extreme_logits_stay_finite():
    det = torch.tensor([[100.0, -100.0, 0.0]])
    got = GeometricEnsemble(renormalise=True)(
        det, -det[:, :2], torch.tensor([False, True])
    )
    assert got.isfinite().all() and got.sum() == pytest.approx(1)
