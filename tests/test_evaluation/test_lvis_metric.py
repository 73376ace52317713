# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from lvis_data import encode, make_ground_truth, make_results
from mmdet.registry import METRICS
from mmengine.structures import InstanceData

from dito.evaluation import DITOLVISMetric


@pytest.fixture
def scene(tmp_path):
    """A file, its content, and results in the reference's own form."""
    rng = np.random.default_rng(0)
    content = make_ground_truth(rng)
    results = make_results(rng, content)
    path = tmp_path / 'val.json'
    path.write_text(json.dumps(content))
    return str(path), content, results


def to_samples(content, results, classes, **options):
    """What a detector returns: labels by position in ``classes``."""
    name_of = {cat['id']: cat['name'] for cat in content['categories']}
    samples = []
    for image in content['images']:
        own = [r for r in results if r['image_id'] == image['id']]
        boxes = np.array([r['bbox'] for r in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [classes.index(name_of[r['category_id']]) for r in own]
        masks = [mask_utils.decode(r['segmentation']) for r in own]
        masks = np.array(masks, dtype=bool).reshape(-1, 160, 160)
        pred = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            scores=torch.tensor([r['score'] for r in own]),
            labels=torch.tensor(labels, dtype=torch.long),
        )
        if options.get('masks', True):
            pred.masks = torch.from_numpy(masks)
        samples.append(dict(img_id=image['id'], pred_instances=pred))
    return samples


def evaluate(metric, samples, classes, **meta):
    metric.dataset_meta = dict(classes=tuple(classes), **meta)
    for sample in samples:
        metric.process({}, [sample])
    return metric.evaluate(len(samples))


def reference(content, results, iou_type):
    """Figures of the lvis package's own summary."""
    from lvis import LVIS, LVISEval, LVISResults

    gt = LVIS.__new__(LVIS)
    gt.logger = __import__('logging').getLogger('lvis')
    gt.dataset = json.loads(json.dumps(content))
    gt._create_index()
    results = json.loads(json.dumps(results))
    for result in results:
        result.pop('segmentation' if iou_type == 'bbox' else 'bbox')
    run = LVISEval(gt, LVISResults(gt, results), iou_type)
    np.float = float
    try:
        run.run()
    finally:
        del np.float
    return run.get_results()


def names_of(content):
    return [cat['name'] for cat in content['categories']]


@pytest.mark.parametrize('backend', ['federated', 'faster', 'lvis'])
def test_figures_are_those_of_the_lvis_package(scene, backend):
    path, content, results = scene
    classes = names_of(content)[::-1]
    metric = DITOLVISMetric(path, ['bbox', 'segm'], backend=backend)
    figures = evaluate(metric, to_samples(content, results, classes), classes)
    for iou_type in ('bbox', 'segm'):
        expected = reference(content, results, iou_type)
        assert set(expected) <= {
            name.split('_', 1)[1]
            for name in figures
            if name.startswith(f'lvis/{iou_type}')
        }
        for name, value in expected.items():
            assert figures[f'lvis/{iou_type}_{name}'] == pytest.approx(
                value, abs=1e-9
            )
        assert 0 < expected['AP'] < 1


def crowded(rng, per_image=420):
    """Images of more detections than count, with objects at the limit.

    The best are noise of classes that are absent there; objects are found
    from the 280th place on, one of them at the 300th and one at the 301st.
    """
    content = make_ground_truth(rng)
    ids = [cat['id'] for cat in content['categories']]
    results = []
    for image in content['images'][1:]:
        own = [
            ann
            for ann in content['annotations']
            if ann['image_id'] == image['id']
        ]
        image['neg_category_ids'] = sorted(
            set(ids) - {ann['category_id'] for ann in own}
        )
        image['not_exhaustive_category_ids'] = []
        for place in range(per_image):
            ann = own[place % len(own)] if own else None
            hit = ann is not None and place >= 280 and place % 10 in (0, 9)
            box = ann['bbox'] if hit else [0.0, 0.0, 5.0, 5.0 + place % 7]
            results.append(
                dict(
                    image_id=image['id'],
                    category_id=ann['category_id']
                    if hit or (ann and place % 3)
                    else ids[place % len(ids)],
                    # No two are equal: the last kept would not be defined.
                    score=float(
                        np.float32(1 - (place + image['id'] * 1e-4) / 500)
                    ),
                    bbox=box,
                    segmentation=encode(box, 160, 160),
                )
            )
    return content, [results[i] for i in rng.permutation(len(results))]


@pytest.mark.parametrize('backend', ['federated', 'faster', 'lvis'])
def test_the_best_300_of_an_image_count_as_in_the_lvis_package(
    tmp_path, backend
):
    content, results = crowded(np.random.default_rng(7))
    path = tmp_path / 'val.json'
    path.write_text(json.dumps(content))
    classes = names_of(content)
    samples = to_samples(content, results, classes, masks=False)

    def figures(**limit):
        metric = DITOLVISMetric(str(path), ['bbox'], backend=backend, **limit)
        return evaluate(metric, samples, classes)

    # The package's own limit is 300 too.
    expected = reference(content, results, 'bbox')
    got = figures()
    for name, value in expected.items():
        assert got[f'lvis/bbox_{name}'] == pytest.approx(value, abs=1e-9)
    assert 0 < expected['AP'] < 1
    for other in (299, 301):
        changed = figures(max_dets=other)
        assert abs(changed['lvis/bbox_AP'] - expected['AP']) > 1e-4


def test_novel_group_is_the_rare_classes_and_base_the_others(scene):
    path, content, results = scene
    classes = names_of(content)
    metric = DITOLVISMetric(path)
    figures = evaluate(metric, to_samples(content, results, classes), classes)
    assert figures['lvis/bbox_novel_AP'] == figures['lvis/bbox_APr']
    rows = [row for row in metric.per_category['bbox'] if row['AP'] > -1]
    for novel, group in ((True, 'novel'), (False, 'base')):
        for key in ('AP', 'AP50'):
            mean = np.mean([r[key] for r in rows if r['novel'] == novel])
            assert figures[f'lvis/bbox_{group}_{key}'] == pytest.approx(mean)
    assert [row['name'] for row in metric.per_category['bbox']] == classes


def test_novel_classes_of_the_data_set_are_used(scene):
    path, content, results = scene
    classes = names_of(content)
    metric = DITOLVISMetric(path)
    figures = evaluate(
        metric,
        to_samples(content, results, classes),
        classes,
        novel_classes=('name1', 'name2'),
    )
    rows = {row['name']: row for row in metric.per_category['bbox']}
    assert {name for name, row in rows.items() if row['novel']} == {
        'name1',
        'name2',
    }
    mean = np.mean([rows['name1']['AP'], rows['name2']['AP']])
    assert figures['lvis/bbox_novel_AP'] == pytest.approx(mean)


@pytest.mark.parametrize('limit', [5, 20, 10_000])
def test_fixed_ap_is_the_lvis_package_on_the_best_of_each_class(scene, limit):
    path, content, results = scene
    classes = names_of(content)
    # Distinct scores: which of equal ones is the last kept is not defined.
    rng = np.random.default_rng(3)
    for result, score in zip(
        results, rng.permutation(len(results)), strict=True
    ):
        result['score'] = float(np.float32(0.001 * (score + 1)))
    best = []
    for category in content['categories']:
        own = [r for r in results if r['category_id'] == category['id']]
        best += sorted(own, key=lambda r: -r['score'])[:limit]
    expected = reference(content, best, 'bbox')
    metric = DITOLVISMetric(
        path,
        ['bbox', 'segm'],
        max_dets=7,
        protocols=['standard', 'fixed'],
        max_dets_per_class=limit,
    )
    samples = to_samples(content, results, classes)
    figures = evaluate(metric, samples, classes)
    for name in ('AP', 'AP50', 'AP75', 'APr', 'APc', 'APf', 'APs', 'APl'):
        assert figures[f'lvis/bbox_fixed_{name}'] == pytest.approx(
            expected[name], abs=1e-9
        )
    alone = DITOLVISMetric(path, ['bbox', 'segm'], max_dets=7)
    standard = evaluate(alone, samples, classes)
    assert standard.items() <= figures.items()
    assert standard['lvis/bbox_AP'] != figures['lvis/bbox_fixed_AP']
    assert 'note_on_fixed' not in metric.report['protocol']


def test_fixed_ap_of_a_limited_detector_is_remarked(scene):
    path, content, results = scene
    classes = names_of(content)
    metric = DITOLVISMetric(path, protocols='fixed')
    evaluate(metric, to_samples(content, results, classes), classes)
    note = metric.report['protocol']['note_on_fixed']
    assert 'at most 40 per image' in note


def test_report_has_protocol_figures_and_categories(scene):
    path, content, results = scene
    classes = names_of(content)
    metric = DITOLVISMetric(path, ['bbox', 'segm'])
    figures = evaluate(metric, to_samples(content, results, classes), classes)
    report = json.loads(json.dumps(metric.report))
    assert {f'lvis/{k}': v for k, v in report['figures'].items()} == figures
    assert set(report['per_category']) == {'bbox', 'segm'}
    assert report['protocol']['overlap'] == 'boxes and masks'


def test_order_of_classes_does_not_matter(scene):
    path, content, results = scene
    outputs = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        classes = [str(name) for name in rng.permutation(names_of(content))]
        samples = to_samples(content, results, classes, masks=False)
        outputs.append(evaluate(DITOLVISMetric(path), samples, classes))
    assert outputs[0] == outputs[1] == outputs[2]


def test_perfect_detections_score_one(scene):
    path, content, _ = scene
    results = [dict(ann, score=1.0) for ann in content['annotations']]
    for result, ann in zip(results, content['annotations'], strict=True):
        mask = np.zeros((160, 160), dtype=np.uint8)
        result['segmentation'] = mask_utils.encode(np.asfortranarray(mask))
        assert result['bbox'] == ann['bbox']
    classes = names_of(content)
    samples = to_samples(content, results, classes)
    metric = DITOLVISMetric(path, ['bbox', 'segm'])
    figures = evaluate(metric, samples, classes)
    assert figures['lvis/bbox_AP'] == pytest.approx(1)
    assert figures['lvis/bbox_novel_AP50'] == pytest.approx(1)
    # Empty masks are no detections at all.
    assert figures['lvis/segm_AP'] == 0


def test_only_judged_detections_are_kept(scene):
    path, content, results = scene
    classes = names_of(content)
    samples = to_samples(content, results, classes)
    metric = DITOLVISMetric(path, ['bbox', 'segm'])
    metric.dataset_meta = dict(classes=classes)
    metric.process({}, samples)
    judged = {
        image['id']: set(image['neg_category_ids'])
        for image in content['images']
    }
    for ann in content['annotations']:
        judged[ann['image_id']].add(ann['category_id'])
    expected = [
        r for r in results if r['category_id'] in judged[r['image_id']]
    ]
    kept = sum(entry.count for entry in metric.results)
    assert kept == len(expected) < len(results)
    assert sum(entry.seen for entry in metric.results) == len(results)


def test_files_hold_everything_and_evaluate_to_the_same(scene, tmp_path):
    path, content, results = scene
    classes = names_of(content)
    samples = to_samples(content, results, classes)
    plain = evaluate(DITOLVISMetric(path, ['bbox', 'segm']), samples, classes)
    prefix = str(tmp_path / 'out' / 'epoch_1')
    metric = DITOLVISMetric(path, ['bbox', 'segm'], outfile_prefix=prefix)
    assert evaluate(metric, samples, classes) == plain
    for iou_type in ('bbox', 'segm'):
        with open(f'{prefix}.{iou_type}.json') as file:
            written = json.load(file)
        assert len(written) == len(results)
        expected = reference(content, results, iou_type)
        for result in written:
            result.setdefault('bbox', None)
            result.setdefault('segmentation', None)
        again = reference(content, written, iou_type)
        assert again == pytest.approx(expected)
    with open(f'{prefix}.categories.json') as file:
        assert json.load(file) == metric.per_category
    names = sorted(p.name for p in (tmp_path / 'out').iterdir())
    assert not [name for name in names if name.endswith('.tmp')]


def test_table_names_the_protocol(scene, monkeypatch):
    path, content, results = scene
    lines = []
    monkeypatch.setattr(
        'dito.evaluation.detection_metric.MMLogger.get_current_instance',
        lambda: type('L', (), dict(info=lambda self, t: lines.append(t)))(),
    )
    classes = names_of(content)
    samples = to_samples(content, results, classes, masks=False)[:5]
    metric = DITOLVISMetric(path, classwise=True, protocol=dict(alpha=0.3))
    metric.note_run(dict(beta=0.65))
    figures = evaluate(metric, samples, classes)
    categories, extremes, table = lines
    found = {
        line.split('  ')[0].strip(): line.split('  ', 1)[1].strip()
        for line in table.splitlines()
        if '  ' in line
    }
    expected = dict(
        split='val.json',
        images='5 of 12',
        classes='8 (3 novel)',
        overlap='boxes',
        AP='standard',
        max_dets='300 per image over all classes',
        most_dets_of_an_image='40',
        lowest_score='0.08333',
        backend='faster-coco-eval',
        alpha='0.3',
        beta='0.65',
        note='images without results count as empty',
    )
    assert expected.items() <= found.items()
    assert 'best novel categories' in extremes
    assert metric.report['protocol']['lowest_score'] == np.float32(1 / 12)
    assert f'{100 * figures["lvis/bbox_AP"]:.2f}' in table
    assert all(name in categories for name in classes)


def test_nothing_detected_and_half_precision(scene):
    path, content, results = scene
    classes = names_of(content)
    nothing = to_samples(content, [], classes)
    metric = DITOLVISMetric(path, ['bbox', 'segm'])
    figures = evaluate(metric, nothing, classes)
    assert figures['lvis/bbox_AP'] == figures['lvis/segm_APr'] == 0
    samples = to_samples(content, results, classes, masks=False)
    for sample in samples:
        pred = sample['pred_instances']
        pred.scores = pred.scores.bfloat16()
    figures = evaluate(DITOLVISMetric(path), samples, classes)
    assert figures['lvis/bbox_AP'] > 0


@pytest.mark.parametrize(
    'classes, message',
    [
        (['name0'], "1 classes .* 8 categories .*not in the data set: 'name1"),
        (
            [f'name{k}' for k in range(7)] + ['unicorn'],
            "not in the file: 'unicorn'; not in the data set: 'name7'",
        ),
        (
            [f'name{k}' for k in range(9)],
            "not in the file: 'name8'; not in the data set: none",
        ),
    ],
)
def test_other_vocabularies_are_refused(scene, classes, message):
    path, content, results = scene
    samples = to_samples(content, results, names_of(content), masks=False)
    with pytest.raises(ValueError, match=message):
        evaluate(DITOLVISMetric(path), samples, classes)


def test_wrong_predictions_are_named(scene):
    path, content, results = scene
    classes = names_of(content)
    sample = to_samples(content, results, classes)[0]
    pred = sample['pred_instances']

    def fails(message, metric='bbox', **sample):
        with pytest.raises(ValueError, match=message):
            evaluate(DITOLVISMetric(path, metric), [sample], classes)

    labels = pred.labels.clone()
    pred.labels = labels + 1000
    fails('image 1000 has labels 100.* to 100.*, but .* 8 classes', **sample)
    pred.labels = labels
    fails('1 image ids are not in', **dict(sample, img_id=5))
    del pred.masks
    fails('image 1000 has none', 'segm', **sample)
    pred.scores[3] = float('nan')
    fails('image 1000 has scores that are not finite', **sample)


def test_repeated_images_are_refused(scene):
    path, content, results = scene
    classes = names_of(content)
    samples = to_samples(content, results, classes, masks=False)
    with pytest.raises(ValueError, match=r'1 images .* twice: \[1000\]'):
        evaluate(DITOLVISMetric(path), samples + samples[:1], classes)


@pytest.mark.parametrize(
    'options, error, message',
    [
        (dict(ann_file='gone.json'), FileNotFoundError, 'gone.json'),
        (dict(metric='proposal'), ValueError, "but got 'proposal'"),
        (dict(metric=[]), ValueError, r'but got \[\]'),
        (dict(backend='slow'), ValueError, "not 'slow'"),
        (dict(spool_dir='x'), ValueError, "spool_dir='x' has no meaning"),
        (dict(protocols='loose'), ValueError, "but got .*'loose'"),
        (dict(protocols=[]), ValueError, r'but got \[\]'),
        (
            dict(protocols='fixed', metric='segm'),
            ValueError,
            'fixed AP is of boxes',
        ),
    ],
)
def test_options_are_checked(scene, options, error, message):
    with pytest.raises(error, match=message):
        METRICS.build(
            dict(dict(type='DITOLVISMetric', ann_file=scene[0]), **options)
        )
