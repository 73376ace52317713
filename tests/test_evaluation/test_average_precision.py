# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import copy
import json

import numpy as np
import pytest
from lvis_data import (
    best_of_images,
    make_ground_truth,
    make_results,
    run_lvis,
)
from naive_ap import naive_precision

from dito.evaluation import LVISDetections, LVISGroundTruth, evaluate_lvis
from dito.evaluation.average_precision import PrecisionRecall


def run_all(content, results, iou_type, max_dets=300, backends=None):
    """The lvis package, the rules step by step, and this package."""
    outputs = []
    for backend in backends or ('lvis', 'naive', 'dito'):
        gt = LVISGroundTruth(copy.deepcopy(content))
        given = copy.deepcopy(results)
        if backend == 'dito':
            detections = LVISDetections.from_results(given)
            outputs.append(evaluate_lvis(gt, detections, iou_type, max_dets))
            continue
        best = best_of_images(given, max_dets)
        run = dict(lvis=run_lvis, naive=naive_precision)[backend]
        pair = run(copy.deepcopy(gt.read.content()), best, iou_type)
        outputs.append(PrecisionRecall(*pair))
    return outputs


def assert_equal_to_reference(outputs):
    reference, *others = outputs
    assert (reference.precision > 0).any()
    assert (reference.precision == -1).any()
    for other in others:
        np.testing.assert_allclose(
            other.precision, reference.precision, atol=1e-9
        )
        np.testing.assert_allclose(other.recall, reference.recall, atol=1e-9)


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
@pytest.mark.parametrize('seed', range(6))
def test_equal_to_the_lvis_package(seed, iou_type):
    rng = np.random.default_rng(seed)
    content = make_ground_truth(rng)
    results = make_results(rng, content)
    assert_equal_to_reference(run_all(content, results, iou_type))


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_equal_when_only_the_best_of_an_image_count(iou_type):
    rng = np.random.default_rng(10)
    content = make_ground_truth(rng)
    results = make_results(rng, content)
    outputs = run_all(content, results, iou_type, max_dets=9)
    assert_equal_to_reference(outputs)
    more = run_all(content, results, iou_type, backends=['dito'])[0]
    assert np.abs(more.precision - outputs[0].precision).max() > 0.1


def test_files_are_read_and_checked(tmp_path):
    rng = np.random.default_rng(21)
    content = make_ground_truth(rng)
    results = make_results(rng, content)
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(results))
    found = LVISDetections.from_file(str(path))
    assert len(found) == len(results)
    for text, message in (
        ('[{"image_id": 1', 'not valid JSON .* may be incomplete'),
        ('{"images": []}', 'not a list of detections'),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "'category_id'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            LVISDetections.from_file(str(path))
    results[3]['bbox'] = results[3]['bbox'][:3]
    with pytest.raises(ValueError, match='x, y, width and height'):
        LVISDetections.from_results(results)


@pytest.mark.parametrize(
    'field, value, words',
    [
        ('image_id', 3.5, 'image_id 3.5, a whole number'),
        ('image_id', True, 'image_id True, a whole'),
        ('category_id', None, 'category_id None, a whole'),
        ('image_id', 'scan', "image_id 'scan', a whole"),
        ('image_id', 10**30, 'image_id 1000.*, a whole'),
        ('score', float('nan'), 'score nan, finite'),
        ('score', 'high', 'convert string'),
        ('bbox', [1, 2, float('inf'), 4], 'bbox .*inf.*, finite'),
        ('bbox', None, 'not iterable'),
    ],
)
def test_values_of_result_files(tmp_path, field, value, words):
    result = dict(
        image_id='15', category_id=2.0, score='0.5', bbox=[1, 2, 3, 4]
    )
    path = tmp_path / 'results.json'
    path.write_text(json.dumps([result, dict(result, **{field: value})]))
    with pytest.raises(ValueError, match=f'not a list of det.*{words}'):
        LVISDetections.from_file(str(path))
    path.write_text(json.dumps([result]))
    found = LVISDetections.from_file(str(path))
    assert (found.image_ids, found.category_ids, found.scores) == (15, 2, 0.5)


def test_text_ids_of_result_files_are_those_of_the_ground_truth(tmp_path):
    content = make_ground_truth(np.random.default_rng(21))
    results = make_results(np.random.default_rng(22), content)
    plain = LVISDetections.from_results(results)
    for entry in (*content['images'], *content['annotations'], *results):
        key = 'image_id' if 'image_id' in entry else 'id'
        entry[key] = f'scan-{entry[key]:06d}'
    gt = LVISGroundTruth(content)
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(results))
    found = LVISDetections.from_file(str(path), gt.images, gt.categories)
    assert [gt.images.spell(i) for i in found.image_ids] == [
        f'scan-{i:06d}' for i in plain.image_ids
    ]
    results[0]['image_id'] = 'gone'
    with pytest.raises(ValueError, match="image_id 'gone', which the annot"):
        LVISDetections.from_results(results, gt.images, gt.categories)


def test_limit_is_that_of_the_lvis_package():
    from lvis import LVISResults

    rng = np.random.default_rng(11)
    content = make_ground_truth(rng)
    results = make_results(rng, content)
    ours = LVISDetections.from_results(results).limit_per_image(9)
    theirs = LVISResults.limit_dets_per_image(None, results, 9)

    def as_set(items):
        return sorted(
            (r['image_id'], r['score'], r['category_id'], *r['bbox'])
            for r in items
        )

    ours = [
        dict(result, category_id=result['category_id'])
        for result in ours.to_results('bbox')
    ]
    assert as_set(ours) == as_set(theirs)


def test_equal_with_ignored_objects():
    rng = np.random.default_rng(12)
    content = make_ground_truth(rng)
    for ann in content['annotations']:
        ann['ignore'] = int(rng.random() < 0.3)
    results = make_results(rng, content)
    assert_equal_to_reference(run_all(content, results, 'bbox'))


def test_equal_with_crowds_of_equal_boxes():
    """Ties in score and in overlap, where the order of matching decides."""
    rng = np.random.default_rng(13)
    content = make_ground_truth(rng, num_images=3, num_categories=3)
    template = content['annotations'][0]
    for i in range(40):
        box = [8.0 * int(rng.integers(3)), 16.0, 40.0, 40.0]
        content['annotations'].append(
            dict(
                template,
                id=1000 + i,
                bbox=box,
                area=float(rng.choice([900, 1600])),
            )
        )
    results = [
        dict(
            image_id=template['image_id'],
            category_id=template['category_id'],
            score=float(rng.choice([0.5, 0.75])),
            bbox=[4.0 * int(rng.integers(6)), 16.0, 40.0, 40.0],
        )
        for _ in range(120)
    ]
    outputs = run_all(content, results, 'bbox')
    reference, *others = outputs
    for other in others:
        np.testing.assert_allclose(
            other.precision, reference.precision, atol=1e-9
        )


def test_objects_and_detections_without_area_are_nothing():
    rng = np.random.default_rng(14)
    content = make_ground_truth(rng)
    results = make_results(rng, content)
    for result in results[::5]:
        result['bbox'][2] = 0.0
    for ann in content['annotations'][::7]:
        ann['area'] = ann['bbox'][3] = 0.0
    assert_equal_to_reference(run_all(content, results, 'bbox'))


@pytest.mark.parametrize(
    'area, wanted',
    [
        (1023.99, 's'),
        (1024, 'sm'),
        (1024.01, 'm'),
        (9215.99, 'm'),
        (9216, 'ml'),
        (9216.01, 'l'),
        (1e10, 'l'),
        (2, 's'),
    ],
)
def test_sizes_at_their_bounds(area, wanted):
    """An object of 32 x 32 counts as small and as medium."""
    content = make_ground_truth(np.random.default_rng(23))
    box = [8.0, 8.0, 64.0, 64.0]
    content['annotations'] = [
        dict(content['annotations'][0], bbox=box, area=area)
    ]
    own = {
        key: content['annotations'][0][key]
        for key in ('image_id', 'category_id')
    }
    results = [dict(own, bbox=box, score=0.5)]
    for output in run_all(content, results, 'bbox'):
        found = (output.recall > -1).any(axis=(0, 1))
        assert (
            ''.join(c for c, f in zip('asml', found, strict=True) if f)
            == 'a' + wanted
        )


@pytest.mark.parametrize(
    'side, counts',
    [(31.99, 'm'), (32, ''), (32.01, ''), (95.99, ''), (96, ''), (96.01, 'm')],
)
def test_false_alarms_at_the_bounds_of_medium(side, counts):
    """One of another size does not count against the medium objects."""
    content = make_ground_truth(np.random.default_rng(23))
    box = [8.0, 8.0, 64.0, 64.0]
    content['annotations'] = [
        dict(content['annotations'][0], bbox=box, area=4096.0)
    ]
    own = {
        key: content['annotations'][0][key]
        for key in ('image_id', 'category_id')
    }
    results = [
        dict(own, bbox=box, score=0.5),
        dict(own, bbox=[80.0, 80.0, side, side], score=0.9),
    ]
    for output in run_all(content, results, 'bbox'):
        medium = output.precision[0, 0, :, 2].max()
        assert medium == pytest.approx(1 if counts == 'm' else 0.5)


def test_areas_that_are_not_there_are_those_of_the_boxes():
    rng = np.random.default_rng(20)
    content = make_ground_truth(rng)
    results = make_results(rng, content)
    for ann in content['annotations']:
        ann['area'] = ann['bbox'][2] * ann['bbox'][3]
    (expected,) = run_all(content, results, 'bbox', backends=['lvis'])
    for i, ann in enumerate(content['annotations']):
        ann['area'] = (None, 0, 'none')[i % 3]
    for output in run_all(content, results, 'bbox'):
        np.testing.assert_allclose(
            output.precision, expected.precision, atol=1e-9
        )


@pytest.mark.parametrize('backend', ['naive', 'dito'])
def test_no_detections_give_zero_not_an_error(backend):
    content = make_ground_truth(np.random.default_rng(15))
    output = run_all(content, [], 'bbox', backends=[backend])[0]
    present = output.precision > -1
    assert present.any()
    assert (output.precision[present] == 0).all()
    assert (output.recall[output.recall > -1] == 0).all()


def test_a_hand_made_case():
    """Two objects; one found, one false alarm, one category unknown."""
    content = dict(
        categories=[
            dict(id=1, name='a', frequency='r'),
            dict(id=2, name='b', frequency='f'),
        ],
        images=[
            dict(
                id=1,
                width=100,
                height=100,
                neg_category_ids=[],
                not_exhaustive_category_ids=[],
            )
        ],
        annotations=[
            dict(id=i, image_id=1, category_id=1, bbox=box, area=2500)
            for i, box in enumerate([[0, 0, 50, 50], [50, 50, 50, 50]], 1)
        ],
    )
    found = dict(image_id=1, category_id=1, score=0.5, bbox=[0, 0, 50, 50])
    alarm = dict(image_id=1, category_id=1, score=0.9, bbox=[0, 50, 50, 50])
    unknown = dict(image_id=1, category_id=2, score=1, bbox=[0, 0, 9, 9])
    output = run_all(content, [found, alarm, unknown], 'bbox')[2]
    precision = output.precision[:, :, 0, 0]
    # Recall one half at precision one half, and nothing beyond.
    assert precision[:, :51] == pytest.approx(0.5)
    assert (precision[:, 51:] == 0).all()
    assert (output.recall[:, 0, 0] == 0.5).all()
    assert (output.precision[:, :, 1] == -1).all()


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(iou_type='mask'), "'bbox' or 'segm', not mask"),
        (dict(iou_type='segm'), "'segm' needs masks"),
    ],
)
def test_wrong_options_are_named(change, message):
    content = make_ground_truth(np.random.default_rng(17))
    results = make_results(np.random.default_rng(17), content)
    for result in results:
        del result['segmentation']
    with pytest.raises(ValueError, match=message):
        evaluate_lvis(
            LVISGroundTruth(content),
            LVISDetections.from_results(results),
            **change,
        )


def test_masks_alone_give_no_boxes():
    content = make_ground_truth(np.random.default_rng(17))
    results = make_results(np.random.default_rng(17), content)
    for result in results:
        del result['bbox']
    outputs = run_all(content, results, 'segm')
    assert_equal_to_reference(outputs)
    with pytest.raises(ValueError, match="'bbox' needs boxes"):
        run_all(content, results, 'bbox', backends=['dito'])


def test_objects_without_masks_are_named():
    content = make_ground_truth(np.random.default_rng(17))
    results = make_results(np.random.default_rng(17), content)
    for ann in content['annotations']:
        del ann['segmentation']
    with pytest.raises(ValueError, match='object .* has no segmentation'):
        run_all(content, results, 'segm', backends=['dito'])


def test_unknown_ids_are_named():
    content = make_ground_truth(np.random.default_rng(18))
    gt = LVISGroundTruth(content, 'val.json')
    result = dict(image_id=1000, category_id=99, score=1, bbox=[0, 0, 9, 9])
    with pytest.raises(ValueError, match=r'1 category ids .*val.json: \[99'):
        evaluate_lvis(gt, LVISDetections.from_results([result]))
    result = dict(image_id=4, category_id=10, score=1, bbox=[0, 0, 9, 9])
    with pytest.raises(ValueError, match=r'1 image ids .*val.json: \[4'):
        evaluate_lvis(gt, LVISDetections.from_results([result]))


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda c: c.pop('annotations'), "no 'annotations'"),
        (lambda c: c['categories'][0].pop('frequency'), 'frequency None'),
        (
            lambda c: c['images'][0].pop('neg_category_ids'),
            r"image 1000 has no \['neg_category_ids'\]",
        ),
        (
            lambda c: c['annotations'][3].pop('bbox'),
            r'annotation \d+ has the bbox None',
        ),
        (
            lambda c: c['images'][0].update(neg_category_ids=['9']),
            r'image 1000: neg_category_ids has \[9\], which is not in cat',
        ),
    ],
)
def test_other_file_forms_are_refused(damage, message):
    content = make_ground_truth(np.random.default_rng(19))
    damage(content)
    with pytest.raises(ValueError, match=message):
        LVISGroundTruth(content)
