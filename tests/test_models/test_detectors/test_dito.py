# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The detector: losses, gradients, vocabularies, predictions."""

import pytest
import torch
from mmengine.structures import InstanceData
from tiny_detector import TEXT_ENCODER, batch, build, vocabulary

LOSSES = {
    'loss_rpn_center',
    'loss_rpn_bbox',
    'loss_cls',
    'loss_bbox',
    'loss_mask',
}


def make(num_classes=3, novel=(), **kwargs):
    torch.manual_seed(0)
    model = build(**kwargs)
    model.init_weights()
    if num_classes:
        model.set_vocabulary(vocabulary(num_classes, novel))
    return model


def shake(model):
    """Move the weights, so that boxes and scores are far apart."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
        # No score should be 1 up to rounding.
        model.roi_head.bbox_head.temperature_scale.fill_(20.0)
        model.roi_head.vlm_temperature = 0.2
    return model


def loss(model, **kwargs):
    data = model.data_preprocessor(batch(**kwargs), True)
    return model(**data, mode='loss')


@torch.no_grad()
def predict(model, **kwargs):
    return [s.pred_instances for s in model.eval().test_step(batch(**kwargs))]


@pytest.mark.parametrize('items', [(2, 1), (3, 0), (0, 0)])
@pytest.mark.parametrize('mask', [True, False])
def test_every_trainable_parameter_learns(items, mask):
    model = make(mask=mask)
    with torch.no_grad():
        # Boxes without size overlap nothing, so that the gradient of an IoU
        # is 0: which of the nine matched ones have a size is chance.
        model.rpn_head.rpn_reg.bias.fill_(0.5)
    losses = loss(model, num_items=items, mask=mask)
    assert {k for k in losses if 'loss' in k} == (
        LOSSES if mask else LOSSES - {'loss_mask'}
    )
    total, log = model.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]
    if items == (2, 1):
        still = [
            n
            for n, p in model.named_parameters()
            if not p.grad.any() and 'mask_head' not in n
        ]
        assert not still


def test_losses_repeat_with_the_seed():
    values = []
    for _ in range(2):
        model = make()
        torch.manual_seed(5)
        values.append({k: v.tolist() for k, v in loss(model).items()})
    assert values[0] == values[1]


@pytest.mark.parametrize('num', [1, 3, 1203])
@pytest.mark.parametrize('mask', [True, False])
def test_predictions(num, mask):
    results = predict(make(num, mask=mask), mask=mask)
    for result, shape in zip(results, ((64, 48), (60, 64)), strict=True):
        assert 0 < len(result) <= 20
        assert result.labels.min() >= 0 and result.labels.max() < num
        assert (result.scores.diff() <= 0).all() and result.scores.min() > 0
        assert result.bboxes[:, 2].max() <= shape[1]
        assert result.bboxes[:, 3].max() <= shape[0]
        assert ('masks' in result) == mask


def test_vocabulary_can_change_at_any_time():
    model = make(3)
    few, _ = predict(model)
    model.set_vocabulary(vocabulary(50))
    assert len(model.vocabulary) == 50
    assert predict(model)[0].labels.max() >= 3
    model.set_vocabulary(vocabulary(3))
    again, _ = predict(model)
    assert torch.equal(again.scores, few.scores)


def test_permuted_names_permute_labels_only():
    model, order = shake(make(4, novel=[2])), [3, 1, 0, 2]
    first, _ = predict(model)
    names = vocabulary(4, [2]).subset([f'c{i}' for i in order])
    model.set_vocabulary(names)
    second, _ = predict(model)
    torch.testing.assert_close(second.bboxes, first.bboxes)
    torch.testing.assert_close(second.scores, first.scores)
    assert torch.equal(torch.tensor(order)[second.labels], first.labels)


def test_checkpoint_goes_with_any_vocabulary():
    model, other = shake(make(3)), shake(make(1203))
    other.load_state_dict(model.state_dict())
    other.set_vocabulary(vocabulary(3))
    got, expected = predict(other)[0], predict(model)[0]
    assert torch.equal(got.scores, expected.scores)


def test_names_through_the_text_tower():
    model = make(0, text_encoder=TEXT_ENCODER)
    frozen = [p for n, p in model.named_parameters() if 'text_encoder' in n]
    assert frozen and not any(p.requires_grad for p in frozen)
    assert any(k.startswith('text_encoder.') for k in model.state_dict())
    names = model.build_vocabulary(
        ['cat', 'dog', 'bird'], novel=['bird'], templates='none'
    )
    assert model.vocabulary is names
    assert model.roi_head.bbox_head.novel.tolist() == [False, False, True]
    model.train()
    assert not model.text_encoder.training
    model.parse_losses(loss(model))[0].backward()
    assert all(p.grad is None for p in frozen)
    model.set_vocabulary(names.subset(['dog']))
    assert predict(model)[0].labels.max() == 0
    with pytest.raises(ValueError, match='text tower'):
        model.set_vocabulary(vocabulary(3))


def test_set_vocabulary_hashes_the_tower_once(monkeypatch):
    model = make(0, text_encoder=TEXT_ENCODER)
    tower, calls = model.text_encoder, []
    real = type(tower)._hash
    monkeypatch.setattr(
        type(tower), '_hash', lambda self: calls.append(1) or real(self)
    )
    names = model.build_vocabulary(['cat', 'dog'], templates='none')
    assert len(calls) == 1
    for _ in range(5):
        model.set_vocabulary(names.subset(['dog']))
    predict(model.train())
    assert len(calls) == 1

    def weights():
        return {
            k: v
            for k, v in model.state_dict().items()
            if v.is_floating_point()
        }

    changes = [
        lambda: tower.tower.ln_final.weight.add_(0.5),
        lambda: model.load_state_dict(
            {k: 1.5 * v for k, v in weights().items()}, strict=False
        ),
        lambda: model.half().float(),
        lambda: model.load_state_dict(
            {k: v + 1 for k, v in weights().items()}, strict=False, assign=True
        ),
        lambda: setattr(tower, 'context_length', 7),
    ]
    for change in changes:
        old = model.build_vocabulary(['cat'], templates='none')
        with torch.no_grad():
            change()
        with pytest.raises(ValueError, match='text tower'):
            model.set_vocabulary(old)


def test_each_image_of_a_batch_has_its_own_names():
    model, data = shake(make(3)), batch()
    expected = []
    for names, seed in ((5, 1), (40, 2)):
        model.set_vocabulary(vocabulary(names, seed=seed))
        expected.append(predict(model)[len(expected)])
    model.set_vocabulary(vocabulary(3))
    for sample, (names, seed) in zip(
        data['data_samples'], ((5, 1), (40, 2)), strict=True
    ):
        sample.vocabulary = vocabulary(names, seed=seed)
    with torch.no_grad():
        found = model.eval().test_step(data)
    for sample, wanted in zip(found, expected, strict=True):
        assert torch.equal(sample.pred_instances.labels, wanted.labels)
        torch.testing.assert_close(sample.pred_instances.scores, wanted.scores)
    assert len(model.vocabulary) == 3
    other = make(0, text_encoder=TEXT_ENCODER).eval()
    other.build_vocabulary(['cat'], templates='none')
    with pytest.raises(ValueError, match='text tower'):
        other.test_step(data)


def test_no_names_no_text_tower():
    model = make(0)
    with pytest.raises(ValueError, match='No vocabulary is set'):
        predict(model)
    with pytest.raises(ValueError, match='has no text_encoder'):
        model.build_vocabulary(['cat'])


def test_given_proposals_replace_the_proposal_head():
    model, data = make(3).eval(), batch(mask=False)
    for sample in data['data_samples']:
        sample.proposals = InstanceData(
            bboxes=torch.tensor([[4.0, 4.0, 30.0, 30.0]])
        )
    model.rpn_head = None
    with torch.no_grad():
        samples = model.test_step(data)
    # One box at most for each of the three names.
    assert all(1 <= len(s.pred_instances) <= 3 for s in samples)


def test_tensor_mode_for_the_counting_of_operations():
    model = make(3).eval()
    data = model.data_preprocessor(batch(), False)
    with torch.no_grad():
        scores, deltas, masks = model(**data, mode='tensor')
    assert scores.shape[1:] == (4,) and deltas.shape[1:] == (4,)
    assert masks.shape[1:] == (1, 28, 28)


def test_training_under_bfloat16():
    model = make(3)
    with torch.autocast('cpu', torch.bfloat16):
        losses = loss(model)
    expected = loss(make(3))
    model.parse_losses(losses)[0].backward()
    for key in ('loss_rpn_center', 'loss_cls'):
        assert losses[key].item() == pytest.approx(
            expected[key].item(), rel=0.2
        )
