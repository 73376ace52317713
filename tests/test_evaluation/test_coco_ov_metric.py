# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import copy
import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from lvis_data import make_ground_truth, make_results
from mmdet.evaluation import OVCocoMetric
from naive_ap import naive_precision

from dito.datasets.annotations import normalise
from dito.evaluation import DITOCocoMetric, LVISDetections
from dito.evaluation.average_precision import evaluate as evaluate_categories
from dito.evaluation.ground_truth import GroundTruth

CLASSES = ('name5', 'name0', 'name3', 'name2', 'name1', 'name6')
NOVEL = ('name3', 'name1')
META = dict(
    classes=CLASSES,
    novel_classes=NOVEL,
    base_classes=tuple(name for name in CLASSES if name not in NOVEL),
)


@pytest.fixture
def scene(tmp_path):
    """Eight categories in the file, six of them classes of the data set."""
    rng = np.random.default_rng(0)
    content = make_ground_truth(rng, num_images=30)
    for ann in content['annotations']:
        ann['iscrowd'] = 0
    path = tmp_path / 'val.json'
    path.write_text(json.dumps(content))
    return str(path), content, make_results(rng, content)


def to_samples(content, results, classes=CLASSES):
    name_of = {cat['id']: cat['name'] for cat in content['categories']}
    samples = []
    for image in content['images']:
        own = [
            r
            for r in results
            if r['image_id'] == image['id']
            and name_of[r['category_id']] in classes
        ]
        boxes = np.array([r['bbox'] for r in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [classes.index(name_of[r['category_id']]) for r in own]
        pred = dict(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            scores=torch.tensor([r['score'] for r in own]),
            labels=torch.tensor(labels, dtype=torch.long),
            masks=[copy.deepcopy(r['segmentation']) for r in own],
        )
        samples.append(
            dict(img_id=image['id'], ori_shape=(160, 160), pred_instances=pred)
        )
    return samples


def evaluate(metric, samples, meta=META):
    metric.dataset_meta = meta
    for sample in samples:
        metric.process({}, [sample])
    return metric.evaluate(len(samples))


@pytest.mark.parametrize('backend', ['faster', 'pycocotools'])
def test_equal_to_mmdet_with_classes_in_file_order(scene, backend):
    path, content, results = scene
    in_file_order = dict(META, classes=tuple(sorted(CLASSES)))
    samples = to_samples(content, results, in_file_order['classes'])
    expected = {}
    for iou_type in ('bbox', 'segm'):
        theirs = OVCocoMetric(
            ann_file=path, metric=iou_type, proposal_nums=(1, 10, 100)
        )
        expected[iou_type] = evaluate(theirs, samples, in_file_order)
    ours = evaluate(
        DITOCocoMetric(path, ['bbox', 'segm'], backend=backend),
        to_samples(content, results),
    )
    for iou_type, figures in expected.items():
        for group in ('base', 'novel'):
            for theirs, name in (('ap', 'AP'), ('ap50', 'AP50')):
                assert ours[
                    f'coco/{iou_type}_{group}_{name}'
                ] == pytest.approx(figures[f'coco/{group}_{theirs}'])
        # Theirs are rounded to three digits.
        for theirs, name in (('', 'AP'), ('_50', 'AP50'), ('_75', 'AP75')):
            assert ours[f'coco/{iou_type}_{name}'] == pytest.approx(
                figures[f'coco/{iou_type}_mAP{theirs}'], abs=5.1e-4
            )
    assert 0 < ours['coco/bbox_novel_AP'] < ours['coco/bbox_novel_AP50'] < 1


def test_names_of_the_split_stand_together(scene):
    path, content, results = scene
    figures = evaluate(DITOCocoMetric(path), to_samples(content, results))
    assert figures['coco/base_ap50'] == figures['coco/bbox_base_AP50']
    assert figures['coco/novel_ap50'] == figures['coco/bbox_novel_AP50']
    assert figures['coco/all_ap50'] == figures['coco/bbox_AP50']


def test_without_novel_classes_there_are_no_groups(scene):
    path, content, results = scene
    meta = dict(classes=CLASSES)
    figures = evaluate(
        DITOCocoMetric(path), to_samples(content, results), meta
    )
    assert set(figures) == {'coco/bbox_AP', 'coco/bbox_AP50', 'coco/bbox_AP75'}


def test_nothing_detected_is_zero(scene):
    path, content, _ = scene
    figures = evaluate(
        DITOCocoMetric(path, ['bbox', 'segm']), to_samples(content, [])
    )
    assert set(figures.values()) == {0.0}


def test_objects_of_the_samples_serve_without_a_file(scene):
    path, content, results = scene
    name_of = {cat['id']: cat['name'] for cat in content['categories']}
    samples = to_samples(content, results)
    for sample in samples:
        sample['instances'] = []
        for ann in content['annotations']:
            name = name_of[ann['category_id']]
            if ann['image_id'] == sample['img_id'] and name in CLASSES:
                x, y, w, h = ann['bbox']
                sample['instances'].append(
                    dict(
                        bbox=[x, y, x + w, y + h],
                        bbox_label=CLASSES.index(name),
                    )
                )
    with_file = evaluate(DITOCocoMetric(path), samples)
    without = evaluate(DITOCocoMetric(), samples)
    # Areas differ, and they do not count in these figures.
    assert without == pytest.approx(with_file)


def test_masks_of_tensors_are_encoded(scene):
    path, content, results = scene
    samples = to_samples(content, results)
    expected = evaluate(DITOCocoMetric(path, 'segm'), samples)
    for sample in samples:
        rles = sample['pred_instances']['masks']
        masks = [mask_utils.decode(rle) for rle in rles]
        masks = np.array(masks, dtype=bool).reshape(-1, 160, 160)
        sample['pred_instances']['masks'] = torch.from_numpy(masks)
    assert evaluate(DITOCocoMetric(path, 'segm'), samples) == expected


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
@pytest.mark.parametrize('seed, limit', [(1, 100), (2, 100), (3, 4)])
def test_equal_to_the_rules_step_by_step(seed, limit, iou_type, capsys):
    rng = np.random.default_rng(seed)
    content = make_ground_truth(rng, num_images=8)
    results = make_results(rng, content)
    for ann in content['annotations']:
        ann['iscrowd'] = int(rng.random() < 0.2)
        # Neither means anything to COCO.
        ann['ignore'] = int(rng.random() < 0.2)
    for result in results[::9]:
        result['bbox'][2] = 0.0
    gt = GroundTruth(normalise(copy.deepcopy(content), 'val.json'))
    detections = LVISDetections.from_results(results)
    found = evaluate_categories(gt, detections, iou_type, max_dets=limit)
    precision, recall = naive_precision(
        content, results, iou_type, federated=False, limit=limit
    )
    np.testing.assert_allclose(found.precision, precision, atol=1e-9)
    np.testing.assert_allclose(found.recall, recall, atol=1e-9)
    assert (precision > 0).any() and (precision == -1).any()
    # The library would report each category.
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize('backend', ['faster', 'pycocotools'])
def test_files_without_crowd_flags_and_areas(scene, backend):
    path, content, results = scene
    samples = to_samples(content, results)
    expected = evaluate(DITOCocoMetric(path, ['bbox', 'segm']), samples)
    for ann in content['annotations']:
        del ann['iscrowd'], ann['area']
    with open(path, 'w') as file:
        json.dump(content, file)
    metric = DITOCocoMetric(path, ['bbox', 'segm'], backend=backend)
    assert evaluate(metric, samples) == pytest.approx(expected, abs=1e-12)


def test_report_has_protocol_and_categories(scene):
    path, content, results = scene
    metric = DITOCocoMetric(path, protocol=dict(alpha=0.3))
    metric.note_run(dict(beta=0.65))
    figures = evaluate(metric, to_samples(content, results)[:20])
    report = json.loads(json.dumps(metric.report))
    assert {f'coco/{k}': v for k, v in report['figures'].items()} == figures
    found = report['protocol']
    assert found['images'] == '20 of 30' and 'count as empty' in found['note']
    assert found['classes'] == '6 (2 novel)' and found['alpha'] == 0.3
    assert found['beta'] == 0.65 and found['split'] == 'val.json'
    rows = report['per_category']['bbox']
    assert [row['name'] for row in rows] == list(CLASSES)
    mean = np.mean([row['AP50'] for row in rows if row['novel']])
    assert figures['coco/novel_ap50'] == pytest.approx(mean)


def test_result_files_have_all_detections(scene, tmp_path):
    path, content, results = scene
    prefix = str(tmp_path / 'out' / 'epoch')
    samples = to_samples(content, results)
    metric = DITOCocoMetric(
        path, ['bbox', 'segm'], outfile_prefix=prefix, format_only=True
    )
    assert evaluate(metric, samples) == {}
    ids = {c['id'] for c in content['categories'] if c['name'] in CLASSES}
    expected = sorted(
        (r['image_id'], r['category_id'], r['score'], r['bbox'])
        for r in results
        if r['category_id'] in ids
    )
    with open(f'{prefix}.bbox.json') as file:
        written = json.load(file)
    assert expected == sorted(
        (r['image_id'], r['category_id'], r['score'], r['bbox'])
        for r in written
    )
    with open(f'{prefix}.segm.json') as file:
        assert len(json.load(file)) == len(expected)


def test_other_data_sets_and_repeated_images_are_refused(scene):
    path, content, results = scene
    samples = to_samples(content, results)
    with pytest.raises(ValueError, match='1 images have results twice'):
        evaluate(DITOCocoMetric(path), samples + samples[:1])
    samples[2]['img_id'] = 77
    with pytest.raises(ValueError, match='image 77 .* of another data set'):
        evaluate(DITOCocoMetric(path), samples)
    samples = to_samples(content, results)
    samples[0]['pred_instances']['scores'][3] = float('inf')
    with pytest.raises(ValueError, match='scores that are not finite'):
        evaluate(DITOCocoMetric(path), samples)


def test_errors_name_the_cause(scene):
    path, content, results = scene
    samples = to_samples(content, results)
    meta = dict(META, classes=CLASSES[:-1] + ('unicorn',))
    with pytest.raises(ValueError, match="1 of 6 .*val.json: 'unicorn'"):
        evaluate(DITOCocoMetric(path), samples, meta)
    meta = dict(META, classes=CLASSES[:2])
    with pytest.raises(ValueError, match='labels 0 to 5, .* 2 classes'):
        evaluate(DITOCocoMetric(path), samples, meta)
    del samples[0]['pred_instances']['masks']
    with pytest.raises(ValueError, match='image 1000 has none'):
        evaluate(DITOCocoMetric(path, 'segm'), samples)
    with pytest.raises(ValueError, match="but got 'proposal'"):
        DITOCocoMetric(path, 'proposal')
    with pytest.raises(ValueError, match="not 'slow'"):
        DITOCocoMetric(path, backend='slow')
    with pytest.raises(ValueError, match="spool_dir='/tmp' has no meaning"):
        DITOCocoMetric(path, spool_dir='/tmp')
    with pytest.raises(FileNotFoundError, match='gone.json'):
        DITOCocoMetric('gone.json')
