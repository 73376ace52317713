# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import pytest

from dito.evaluation import DITOZeroShotMetric

META = dict(
    classes=('a', 'b', 'c', 'd', 'e', 'f'),
    base_classes=('a', 'b', 'd', 'e', 'f'),
    novel_classes=('c',),
)


def evaluate(samples, meta=META, **kwargs):
    metric = DITOZeroShotMetric(**kwargs)
    metric.dataset_meta = meta
    metric.process(
        None,
        [dict(gt_label=label, pred_labels=best) for label, best in samples],
    )
    return metric.evaluate(len(samples))


def test_accuracies_by_hand():
    samples = [
        (0, [0, 1, 2, 3, 4]),
        (0, [1, 0, 2, 3, 4]),
        (1, [5, 4, 3, 2, 0]),
        (2, [2, 1, 0, 3, 4]),
        (2, [0, 1, 3, 4, 2]),
        (3, [3, 1, 2, 4, 5]),
    ]
    found = evaluate(samples)
    assert found == {
        'zero_shot/all_top1': pytest.approx(50),
        'zero_shot/all_top5': pytest.approx(100 * 5 / 6),
        'zero_shot/base_top1': pytest.approx(50),
        'zero_shot/base_top5': pytest.approx(75),
        'zero_shot/novel_top1': pytest.approx(50),
        'zero_shot/novel_top5': pytest.approx(100),
    }
    assert evaluate(samples, topk=(2,))['zero_shot/base_top2'] == 75


def test_groups_without_images_are_left_out():
    meta = dict(classes=('a', 'b'))
    assert evaluate([(0, [0, 1])], meta) == {
        'zero_shot/all_top1': 100,
        'zero_shot/all_top5': 100,
    }
    assert 'zero_shot/novel_top1' not in evaluate([(0, [0, 1])])


def test_labels_are_needed():
    with pytest.raises(ValueError, match='needs labels'):
        evaluate([(None, [0, 1])])


def test_report_has_protocol_and_figures():
    metric = DITOZeroShotMetric(protocol=dict(remark='mine'))
    metric.dataset_meta = META
    metric.note_run(
        dict(split='zero_shot', templates=['a {}'], checkpoint_sha256='abc')
    )
    metric.process(
        None,
        [
            dict(gt_label=2, pred_labels=[2, 0]),
            dict(gt_label=2, pred_labels=[0, 2]),
        ],
    )
    found = metric.evaluate(2)
    report = metric.report
    expected = dict(
        split='zero_shot',
        images=2,
        classes='6 (1 novel)',
        remark='mine',
        templates=['a {}'],
        checkpoint_sha256='abc',
    )
    assert {k: report['protocol'][k] for k in expected} == expected
    assert report['figures']['novel_top1'] == 50
    assert {f'zero_shot/{k}': v for k, v in report['figures'].items()} == found
