# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Accuracy over annotated boxes: by hand, ties, errors, any class order."""

import numpy as np
import pytest
import torch

from dito.evaluation import DITORegionMetric
from dito.evaluation.classification import is_right

META = dict(
    classes=('a', 'b', 'c', 'd'),
    novel_classes=('c', 'd'),
    frequency=('f', 'c', 'r', 'r'),
)
SCORES = torch.tensor(
    [
        [0.7, 0.1, 0.1, 0.1],
        [0.1, 0.7, 0.1, 0.1],
        [0.1, 0.1, 0.7, 0.1],
    ]
)


def evaluate(samples, meta=META):
    return evaluated(samples, meta)[0]


def evaluated(samples, meta=META, score='vlm', facts=None, **kwargs):
    metric = DITORegionMetric(**kwargs)
    metric.dataset_meta = meta
    metric.note_run(facts or {})
    metric.process(
        None,
        [
            dict(
                gt_instances=dict(
                    labels=torch.as_tensor(labels, dtype=torch.long)
                ),
                pred_regions=dict(scores=scores, score=score),
            )
            for labels, scores in samples
        ],
    )
    return metric.evaluate(len(samples)), metric.report


def test_by_hand():
    # Right: a twice of three, b never, c once of one; d has no box.
    found = evaluate([([0, 0, 2], SCORES), ([0, 1], SCORES[[0, 2]])])
    assert found == {
        'region/boxes': 5,
        'region/all_top1': pytest.approx(60),
        'region/base_top1': pytest.approx(50),
        'region/novel_top1': pytest.approx(100),
        'region/all_mean': pytest.approx(100 * (2 / 3 + 0 + 1) / 3),
        'region/base_mean': pytest.approx(100 / 3),
        'region/novel_mean': pytest.approx(100),
        'region/rare_mean': pytest.approx(100),
        'region/common_mean': 0,
        'region/frequent_mean': pytest.approx(200 / 3),
    }


def test_ties_are_wrong_whatever_the_order():
    even = torch.full((4, 4), 0.25)
    assert evaluate([([0, 1, 2, 3], even)])['region/all_top1'] == 0
    tie = torch.tensor([[0.4, 0.4, 0.1, 0.1], [0.1, 0.1, 0.6, 0.2]])
    order = [3, 1, 0, 2]
    for columns in ([0, 1, 2, 3], order):
        labels = [columns.index(0), columns.index(2)]
        meta = dict(classes=tuple(META['classes'][i] for i in columns))
        found = evaluate([(labels, tie[:, columns])], meta)
        assert found['region/all_top1'] == 50


def test_against_a_loop():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (60, 4)) / 5
    labels = rng.integers(0, 4, 60)
    for row, label, right in zip(
        scores, labels, is_right(scores, labels), strict=True
    ):
        others = [s for k, s in enumerate(row) if k != label]
        assert right == all(row[label] > s for s in others)
    assert is_right(np.ones((2, 1)), np.zeros(2, int)) == [True, True]


def test_images_and_groups_without_boxes():
    found = evaluate(
        [([], SCORES[:0]), ([0], SCORES[:1])], dict(classes=META['classes'])
    )
    assert found == {
        'region/boxes': 1,
        'region/all_top1': 100,
        'region/all_mean': 100,
    }


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match=r'shape \(3, 4\), expected \(2, 4'):
        evaluate([([0, 1], SCORES)])
    with pytest.raises(ValueError, match='vocabulary of the model'):
        evaluate([([0, 1, 2], SCORES[:, :3])])
    with pytest.raises(ValueError, match='not finite'):
        evaluate([([0], SCORES[:1] * float('nan'))])
    metric = DITORegionMetric()
    with pytest.raises(ValueError, match='given_boxes'):
        metric.process(None, [dict(gt_instances={})])


@pytest.mark.parametrize(
    'score, told',
    [
        ('vlm', {'vlm_roi_scale': 0.7, 'config': 'c.py', 'split': 'v.json'}),
        ('det', {'config': 'c.py', 'split': 'v.json'}),
        (
            'ensemble',
            {
                'alpha': 0.3,
                'vlm_roi_scale': 0.7,
                'config': 'c.py',
                'split': 'v.json',
            },
        ),
    ],
)
def test_protocol_has_what_bears_on_the_score(score, told):
    facts = dict(
        config='c.py',
        split='v.json',
        alpha=0.3,
        vlm_roi_scale=0.7,
        score_thr=0.0,
        max_per_img=300,
    )
    found, report = evaluated(
        [([0, 0, 2], SCORES)],
        score=score,
        facts=facts,
        protocol=dict(remark='mine', boxes='many'),
    )
    protocol = report['protocol']
    assert {k: protocol[k] for k in told} == told
    assert set(facts) & set(protocol) == set(told)
    assert protocol['boxes'] == 3 and protocol['boxes (given)'] == 'many'
    assert protocol['remark'] == 'mine' and protocol['tie'] == 'wrong'
    assert {f'region/{k}': v for k, v in report['figures'].items()} == found
    rows = report['per_category']['top1']
    assert [(r['name'], r['boxes'], r['top1']) for r in rows] == [
        ('a', 2, 50),
        ('b', 0, -1),
        ('c', 1, 100),
        ('d', 0, -1),
    ]
