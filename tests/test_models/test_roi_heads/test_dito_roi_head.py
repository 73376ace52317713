# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""RoI head: VLM scores, ensemble, distillation, edge cases."""

import numpy as np
import pytest
import torch
from golden_arrays import ROUNDING, XYXY, close
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from tiny_detector import DIMS, tiny_config, vocabulary

META = dict(img_shape=(64, 48), ori_shape=(64, 48), scale_factor=(1.0, 1.0))


def build(num_classes=3, novel=(), mask=False, **kwargs):
    model = tiny_config(mask=mask)
    cfg = dict(
        model.roi_head,
        train_cfg=model.train_cfg.rcnn,
        test_cfg=model.test_cfg.rcnn,
        **kwargs,
    )
    head = MODELS.build(cfg)
    head.set = head.bbox_head.set_vocabulary
    head.set(vocabulary(num_classes, novel))
    return head.eval()


def inputs(num=6, images=1):
    """Pyramid, proposals, samples and backbone map."""
    pyramid = tuple(
        torch.randn(images, 8, 64 // s, 64 // s) for s in (2, 4, 8, 16)
    )
    proposals = []
    for _ in range(images):
        corner = torch.rand(num, 2) * 20
        boxes = torch.cat([corner, corner + 4 + torch.rand(num, 2) * 20], 1)
        proposals.append(InstanceData(bboxes=boxes, scores=torch.rand(num)))
    samples = [DetDataSample(metainfo=META) for _ in range(images)]
    return pyramid, proposals, samples, torch.randn(images, DIMS, 8, 8)


def predict(head, data):
    pyramid, proposals, samples, feat = data
    return head.predict(pyramid, proposals, samples, vlm_feat=feat)[0]


def test_vlm_feature_is_the_mean_of_the_box():
    head, feat = build(), torch.zeros(1, DIMS, 8, 8)
    feat[:, :, 2:4, 2:4] = torch.arange(1.0, DIMS + 1)[:, None, None]
    # From image 16 to 24 every sample lies between cells 2 and 3.
    rois = torch.tensor([[0.0, 16.0, 16.0, 24.0, 24.0]])
    got = head.vlm_embed(feat, rois, [META])
    torch.testing.assert_close(got, torch.arange(1.0, DIMS + 1)[None])


def test_scaled_rois_equal_release(golden):
    arrays = golden('proposals')
    scale = float(arrays['rescale/scale'])
    head = build(vlm_roi_scale=scale)
    seen = []
    head.vlm_roi_extractor.forward = lambda feats, rois: (
        seen.append(rois) or feats[0].new_zeros(len(rois), DIMS, 1, 1)
    )
    boxes = torch.from_numpy(arrays['rescale/boxes'])[..., XYXY]
    index = torch.arange(float(len(boxes)))
    rois = torch.cat(
        [
            index.repeat_interleave(boxes.shape[1])[:, None],
            boxes.reshape(-1, 4),
        ],
        1,
    )
    metas = [dict(img_shape=tuple(s)) for s in arrays['rescale/image_shape']]
    head.vlm_embed(torch.zeros(len(boxes), DIMS, 8, 8), rois, metas)
    expected = arrays['rescale/out'][..., XYXY].reshape(-1, 4)
    # The release clips to side - 1; no proposal reaches there after scaling.
    last = arrays['rescale/image_shape'].repeat(boxes.shape[1], 0) - 1
    got = np.minimum(seen[0][:, 1:].numpy(), last[:, [1, 0, 1, 0]])
    close(got, expected, ROUNDING)


@pytest.mark.parametrize('background', [True, False])
def test_vlm_logits_with_and_without_background(background):
    head = build(ensemble=dict(vlm_background=background))
    _, _, _, feat = inputs()
    rois = torch.tensor([[0.0, 4.0, 4.0, 30.0, 40.0]])
    mean = head.vlm_embed(feat, rois, [META])
    logits = head.vlm_logits(mean)
    assert logits.shape == (1, 4 if background else 3)
    mean = mean[0]
    cosine = mean @ head.bbox_head.text[1] / mean.norm()
    assert logits[0, 1].item() == pytest.approx(cosine.item() / 0.01, abs=1e-3)


def test_alpha_for_base_and_beta_for_novel_classes():
    det, vlm = torch.randn(4, 4), torch.randn(4, 3)
    head = build(novel=[1], ensemble=dict(alpha=0.0, beta=1.0))
    scores = head.score(det, vlm, None)
    p, z = det.softmax(1), vlm.softmax(1)
    torch.testing.assert_close(scores[:, [0, 2, 3]], p[:, [0, 2, 3]])
    torch.testing.assert_close(scores[:, 1], z[:, 1])


def test_objectness_multiplies_scores():
    det, vlm, objectness = torch.randn(4, 4), torch.randn(4, 3), torch.rand(4)
    plain = build().score(det, vlm, None)
    got = build(ensemble=dict(objectness_power=3)).score(det, vlm, objectness)
    torch.testing.assert_close(got, plain * objectness[:, None] ** 3)


def test_permuted_vocabulary_permutes_labels_only():
    head, data = build(5, novel=[3]), inputs(12)
    names, order = vocabulary(5, [3]), [2, 4, 3, 0, 1]
    first = predict(head, data)
    head.set(names.subset([f'c{i}' for i in order]))
    second = predict(head, data)
    torch.testing.assert_close(second.scores, first.scores)
    torch.testing.assert_close(second.bboxes, first.bboxes)
    assert torch.equal(torch.tensor(order)[second.labels], first.labels)


def test_more_names_change_no_box():
    head = build(4, ensemble=dict(renormalise=True))
    data = inputs(12)
    pyramid, proposals, samples, feat = data
    args = (pyramid, [META], proposals, None)
    few = head.predict_bbox(*args, vlm_feat=feat)[0]
    head.set(vocabulary(40))
    many = head.predict_bbox(*args, vlm_feat=feat)[0]
    assert torch.equal(many.bboxes, few.bboxes)
    assert many.scores.shape == (12, 41) and few.scores.shape == (12, 5)
    # The names of both have one order by p among themselves.
    for scores in (few.scores, many.scores):
        torch.testing.assert_close(scores.sum(1), torch.ones(12))


@pytest.mark.parametrize('mask', [False, True])
@pytest.mark.parametrize('num', [0, 1, 6])
@pytest.mark.parametrize('classes', [1, 1203])
def test_any_number_of_proposals_and_classes(mask, num, classes):
    head, data = build(classes, mask=mask), inputs(num)
    result = predict(head, data)
    assert len(result) <= 20 and (len(result) > 0) == (num > 0)
    assert result.labels.dtype == torch.long
    if mask:
        assert result.masks.shape == (len(result), 64, 48)


def test_each_image_has_its_own_names():
    head, data = build(4), inputs(9, images=3)
    pyramid, proposals, samples, feat = data
    own = [vocabulary(2, [0], seed=1), None, vocabulary(60, seed=2)]
    alone = []
    for i, names in enumerate(own):
        head.set(vocabulary(4) if names is None else names)
        one = tuple(level[i : i + 1] for level in pyramid)
        alone += head.predict(
            one, proposals[i : i + 1], samples[:1], vlm_feat=feat[i : i + 1]
        )
    head.set(vocabulary(4))
    for sample, names in zip(samples, own, strict=True):
        if names is not None:
            sample.vocabulary = names
    together = head.predict(pyramid, proposals, samples, vlm_feat=feat)
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a.labels, b.labels) and len(a) > 0
        torch.testing.assert_close(a.scores, b.scores)
        torch.testing.assert_close(a.bboxes, b.bboxes)
    assert together[0].labels.max() == 1 and together[2].labels.max() > 4
    assert torch.equal(head.bbox_head.text, vocabulary(4).embeddings)
    samples[0].vocabulary = object()
    with pytest.raises(AttributeError):
        head.predict(pyramid, proposals, samples, vlm_feat=feat)
    assert head.bbox_head.num_classes == 4


def test_one_image_without_proposals():
    pyramid, proposals, samples, feat = inputs(4, images=2)
    proposals[0] = proposals[0][:0]
    results = build().predict(pyramid, proposals, samples, vlm_feat=feat)
    assert len(results[0]) == 0 and len(results[1]) > 0


def test_distillation_starts_from_the_frozen_scores():
    loss = dict(type='DITOCosineDistillLoss')
    head, data = build(loss_distill=loss), inputs()
    feat = data[3]
    torch.testing.assert_close(head.project(feat), feat)
    rois = torch.tensor([[0.0, 4.0, 4.0, 30.0, 40.0]])
    torch.testing.assert_close(
        head.vlm_logits(head.vlm_embed(head.project(feat), rois, [META])),
        build().vlm_logits(build().vlm_embed(feat, rois, [META])),
    )


def test_errors_say_what_is_wrong():
    pyramid, proposals, samples, _ = inputs()
    with pytest.raises(ValueError, match='pass vlm_feat'):
        build().predict(pyramid, proposals, samples)
    cfg = tiny_config(mask=False).roi_head
    cfg.update(
        vlm_roi_extractor=None, loss_distill=dict(type='DITOCosineDistillLoss')
    )
    with pytest.raises(ValueError, match='vlm_roi_extractor'):
        MODELS.build(cfg)


def test_detector_scores_alone():
    pyramid, proposals, samples, _ = inputs()
    cfg = tiny_config(mask=False)
    head = MODELS.build(
        dict(cfg.roi_head, vlm_roi_extractor=None, test_cfg=cfg.test_cfg.rcnn)
    ).eval()
    head.bbox_head.set_vocabulary(vocabulary(3))
    assert len(head.predict(pyramid, proposals, samples)[0]) > 0


def test_options_of_older_configs_reach_the_ensemble():
    facts = build(alpha=0.2, objectness_power=2).ensemble.facts()
    assert (
        facts
        == build(ensemble=dict(alpha=0.2, objectness_power=2)).ensemble.facts()
    )


def test_options_of_older_configs_are_told_their_new_form(monkeypatch):
    said = []
    monkeypatch.setattr(
        'dito.models.roi_heads.dito_roi_head.print_log',
        lambda text, **_: said.append(text),
    )
    build(alpha=0.2, renormalise=True)
    assert len(said) == 1 and said[0].endswith(
        'roi_head.ensemble=dict(alpha=0.2, renormalise=True).'
    )
    build(ensemble=dict(alpha=0.2))
    assert len(said) == 1


def test_another_ensemble():
    """A class of a few lines takes the place of equation 2."""

    class Mean:
        def __call__(self, det, vlm, novel, objectness=None):
            p, z = det.softmax(1), vlm.softmax(1)
            return torch.cat([(p[:, :-1] + z) / 2, p[:, -1:]], 1)

    TASK_UTILS.register_module(module=Mean, force=True)
    # It cannot classify in chunks, so that all classes are scored at once.
    head, data = build(5, class_chunk=3, ensemble=dict(type='Mean')), inputs()
    found = predict(head, data)
    pyramid, proposals, _, feat = data
    raw = head.predict_bbox(pyramid, [META], proposals, None, vlm_feat=feat)
    assert len(found) and raw[0].scores.shape == (6, 6)
    best = raw[0].scores[:, :5].max()
    torch.testing.assert_close(found.scores[0], best)
