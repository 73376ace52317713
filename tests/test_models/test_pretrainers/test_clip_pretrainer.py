# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import SigLipLoss
from pretrainer_models import TEXTS, build, clip_cfg, make_batch

from dito.models.backbones.vit_layers import crop_pos_embed, random_crop_boxes
from dito.models.losses.contrastive_ops import gather_pairs
from dito.models.pretrainers.image_text_pretrainer import recall_at_1
from dito.models.text import Vocabulary


def run(model, batch, mode):
    return model(**model.data_preprocessor(batch, True), mode=mode)


def test_loss_is_symmetric_info_nce_of_the_pooled_map():
    model = build(clip_cfg(logit_scale_init=1.0))
    batch = make_batch()
    values = run(model, batch, 'loss')
    inputs = model.data_preprocessor(batch)['inputs']
    image = F.normalize(model.backbone(inputs)[0].mean(dim=(2, 3)))
    text = F.normalize(
        model.text_encoder(model.text_encoder.tokenize(batch['texts']))
    )
    logits = math.e * image @ text.T
    labels = torch.arange(4)
    loss = (
        F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
    ) / 2
    torch.testing.assert_close(values['loss_image'], loss)
    recall = (logits.argmax(1) == labels).float().mean()
    assert values['recall_image'] == recall
    assert values['logit_scale'].item() == pytest.approx(math.e)
    torch.testing.assert_close(F.normalize(run(model, batch, 'tensor')), image)


def test_every_parameter_has_a_gradient():
    model = build(clip_cfg(cpe=dict(up_size=16)))
    loss, _ = model.parse_losses(run(model, make_batch(), 'loss'))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_positional_embedding_is_cropped_in_training_only():
    model = build(clip_cfg(cpe=dict(up_size=16, scale=(0.1, 0.5))))
    plain = build(clip_cfg())
    plain.load_state_dict(model.state_dict())
    batch = make_batch()
    model.eval()
    assert torch.equal(
        run(model, batch, 'embed')[0]['image'],
        run(plain, batch, 'embed')[0]['image'],
    )
    model.train()
    cropped = run(model, batch, 'embed')[0]['image']
    assert torch.equal(
        run(model, batch, 'tensor'), run(plain, batch, 'tensor')
    )
    boxes = batch['place'].draw(
        lambda n, g: random_crop_boxes(
            n, 16, scale=(0.1, 0.5), ratio=(0.5, 2.0), generator=g
        ),
        4,
    )
    grid = model.backbone.pos_embed.view(1, 4, 4, -1)
    inputs = model.data_preprocessor(batch)['inputs']
    expected = model.backbone(inputs, crop_pos_embed(grid, boxes, 16, 4))[0]
    torch.testing.assert_close(cropped, expected.mean(dim=(2, 3)))
    other = dict(batch, place=batch['place']._replace(iteration=4))
    assert not torch.allclose(run(model, other, 'embed')[0]['image'], cropped)
    run(model, dict(batch, place=None), 'loss')  # torch's own generator


def test_temperature_is_limited():
    model = build(clip_cfg(logit_scale_init=9.0))
    values = run(model, make_batch(), 'loss')
    assert values['logit_scale'].item() == pytest.approx(100)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(math.log(100))
    # At the limit it can still fall.
    loss, _ = model.parse_losses(run(model, make_batch(), 'loss'))
    loss.backward()
    assert model.logit_scale.grad.abs() > 0


def test_zero_shot_prediction():
    model = build(clip_cfg()).eval()
    batch = dict(make_batch(), labels=torch.tensor([0, 1, 2, 0]))
    with pytest.raises(RuntimeError, match='DITOZeroShotHook'):
        run(model, batch, 'predict')
    names = ['cat', 'dog', 'tree']
    vocabulary = Vocabulary.from_names(
        names, model.text_encoder, templates=['a {}']
    )
    model.set_vocabulary(vocabulary)
    results = model.val_step(batch)
    image = F.normalize(run(model, batch, 'tensor'))
    order = (image @ vocabulary.embeddings.T).argsort(1, descending=True)
    assert [r['pred_labels'] for r in results] == order.tolist()
    assert [r['gt_label'] for r in results] == [0, 1, 2, 0]


def test_recall_counts_equal_texts_as_right():

    def recall(image, text):
        return recall_at_1(gather_pairs([image], text)[0]).item()

    image = torch.eye(3)
    text = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 1]])
    assert recall(image, text) == 1  # ties are no error
    assert recall(image, text.roll(1, 0)) < 1
    assert recall(torch.eye(3), torch.eye(3).roll(1, 0)) == 0


def test_sigmoid_loss_learns_its_bias():
    model = build(
        clip_cfg(
            loss=dict(type='DITOSigmoidLoss'),
            logit_bias_init=-4.0,
            logit_scale_init=2.0,
        )
    )
    batch = make_batch()
    values = run(model, batch, 'loss')
    features, _ = run(model, batch, 'embed')
    image, text = (F.normalize(features[n]) for n in ('image', 'text'))
    want = SigLipLoss()(image, text, values['logit_scale'], -4.0)
    torch.testing.assert_close(values['loss_image'], want)
    assert values['logit_bias'] == -4
    values['loss_image'].backward()
    assert model.logit_bias.grad.abs() > 0
    assert 'logit_bias' in model.state_dict()
    assert 'logit_bias' not in build(clip_cfg()).state_dict()


def test_wrong_arguments():
    with pytest.raises(ValueError, match='logit_bias_init=1 has no effect'):
        build(clip_cfg(logit_bias_init=1))
    with pytest.raises(TypeError, match='expected a PairLoss'):
        build(clip_cfg(loss=dict(type='CrossEntropyLoss')))
    with pytest.raises(ValueError, match="unknown keys \\['size'\\]"):
        build(clip_cfg(cpe=dict(size=3)))
    model = build(clip_cfg(cpe=dict(up_size=16)))
    with pytest.raises(ValueError, match='mode is'):
        model(torch.rand(1, 3, 32, 32), mode='x')
    with pytest.raises(ValueError, match='square images'):
        model(torch.rand(1, 3, 32, 40), TEXTS[:1], mode='loss')


def test_preprocessor_normalises_bytes():
    model = build(clip_cfg())
    pixel = torch.tensor([0, 128, 255], dtype=torch.uint8)
    inputs = pixel.view(1, 3, 1, 1).expand(2, 3, 4, 4)
    out = model.data_preprocessor(dict(inputs=inputs, texts=['a', 'b']))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    expected = (pixel / 255 - mean) / std
    torch.testing.assert_close(out['inputs'][1, :, 2, 3], expected)
    assert out['texts'] == ['a', 'b']
    with pytest.raises(ValueError, match='image_text_collate'):
        model.data_preprocessor(dict(inputs=[pixel]))
