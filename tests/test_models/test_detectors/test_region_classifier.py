# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Given boxes are named by z, p or both, as in detection."""

import pytest
import torch
from mmengine.structures import InstanceData
from tiny_detector import batch, build, vocabulary


def make(score='vlm', **kwargs):
    torch.manual_seed(0)
    model = build(
        type='DITORegionClassifier', score=score, mask=False, **kwargs
    )
    model.init_weights()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    model.set_vocabulary(vocabulary(5, [3]))
    return model.eval()


def images(items=(3, 0)):
    data = batch(items, num_classes=5, mask=False)
    for sample in data['data_samples']:
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
    return data


@torch.no_grad()
def classify(model):
    data = images()
    return data['data_samples'], model.test_step(data)


@pytest.mark.parametrize('score', ['vlm', 'det', 'ensemble'])
def test_every_class_of_every_box(score):
    given, found = classify(make(score))
    scores = found[0].pred_regions.scores
    assert scores.shape == (3, 5) and torch.isfinite(scores).all()
    if score == 'vlm':
        torch.testing.assert_close(scores.sum(1), torch.ones(3))
    result = found[0].pred_instances
    assert len(result) == 15 and (result.scores.diff() <= 0).all()
    boxes = given[0].gt_instances.bboxes
    for box, label, value in zip(
        result.bboxes, result.labels, result.scores, strict=True
    ):
        row = (boxes == box).all(dim=1).nonzero()[0, 0]
        assert scores[row, label] == value
    assert found[1].pred_regions.scores.shape == (0, 5)
    assert len(found[1].pred_instances) == 0


def test_ensemble_is_that_of_detection():
    model = make('ensemble')
    given, found = classify(model)
    plain = build(mask=False)
    plain.load_state_dict(model.state_dict())
    plain.set_vocabulary(vocabulary(5, [3]))
    # Without box refinement, one box per image: the detector's own scores.
    data = images()
    for sample, source in zip(data['data_samples'], given, strict=True):
        sample.proposals = InstanceData(bboxes=source.gt_instances.bboxes)
    plain.eval().roi_head.test_cfg = None
    with torch.no_grad():
        expected = plain.test_step(data)[0].pred_instances.scores
    torch.testing.assert_close(found[0].pred_regions.scores, expected[:, :-1])


def test_boxes_are_scaled_to_the_input():
    model = make()
    data = images((2,))
    sample = data['data_samples'][0]
    expected = model.test_step(data)[0].pred_regions.scores
    sample.gt_instances.bboxes = sample.gt_instances.bboxes / torch.tensor(
        [2.0, 3.0, 2.0, 3.0]
    )
    sample.set_metainfo(dict(scale_factor=(2.0, 3.0)))
    result = model.test_step(data)[0]
    torch.testing.assert_close(result.pred_regions.scores, expected)
    boxes = {tuple(b.tolist()) for b in sample.gt_instances.bboxes}
    assert {tuple(b.tolist()) for b in result.pred_instances.bboxes} == boxes


def test_vlm_scores_need_no_heads():
    model = make()
    _, expected = classify(model)
    model.neck = model.rpn_head = None
    model.roi_head.bbox_head.fc_embed = None
    _, found = classify(model)
    assert torch.equal(
        found[0].pred_regions.scores, expected[0].pred_regions.scores
    )


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="score is 'z'"):
        make('z')


@pytest.mark.parametrize('score', ['vlm', 'det', 'ensemble'])
@torch.no_grad()
def test_the_detector_classifies_them_beside_detection(score):
    model = make(score)
    _, expected = classify(model)
    both = build(mask=False, test_cfg=dict(given_boxes=score))
    plain = build(mask=False)
    for detector in (both, plain):
        detector.load_state_dict(model.state_dict())
        detector.set_vocabulary(vocabulary(5, [3]))
        detector.eval()
    found, alone = both.test_step(images()), plain.test_step(images())
    for want, one, other in zip(expected, found, alone, strict=True):
        torch.testing.assert_close(
            one.pred_regions.scores, want.pred_regions.scores
        )
        assert one.pred_regions.score == want.pred_regions.score == score
        # The detections themselves are untouched.
        assert torch.equal(
            one.pred_instances.scores, other.pred_instances.scores
        )
        assert 'pred_regions' not in other


@torch.no_grad()
def test_without_annotations_there_is_nothing_to_classify():
    model = build(mask=False, test_cfg=dict(given_boxes='vlm')).eval()
    model.set_vocabulary(vocabulary(5))
    data = images()
    for sample in data['data_samples']:
        # What PackDetInputs leaves where no annotations were loaded.
        sample.gt_instances = InstanceData()
    assert 'pred_regions' not in model.test_step(data)[0]
    with pytest.raises(ValueError, match='vlm_roi_extractor'):
        build(
            roi_head=dict(vlm_roi_extractor=None),
            test_cfg=dict(given_boxes='vlm'),
        )
