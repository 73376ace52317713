# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import torch
import torch.nn.functional as F
from pretrainer_models import build, make_batch, pyramid_cfg


def test_losses_are_of_projected_means():
    model = build(pyramid_cfg())
    batch = model.data_preprocessor(make_batch(), True)
    values = model(**batch, mode='loss')
    assert {n for n in values if n.startswith('loss')} == {
        'loss_p2',
        'loss_p3',
        'loss_p4',
        'loss_p5',
    }
    feats = model.neck(model.backbone(batch['inputs']))
    text = F.normalize(model.encode_texts(batch['texts']))
    labels = torch.arange(4)
    for number, feat in enumerate(feats, 2):
        image = F.normalize(feat.mean(dim=(2, 3)) @ model.level_proj.weight.T)
        logits = values['logit_scale'] * image @ text.T
        loss = (
            F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
        ) / 2
        torch.testing.assert_close(values[f'loss_p{number}'], loss)


def test_pyramid_projection_and_temperature_are_trained():
    model = build(pyramid_cfg()).train()
    assert not model.backbone.training and not model.text_encoder.training
    batch = model.data_preprocessor(make_batch(), True)
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    for name, parameter in model.named_parameters():
        trained = name.startswith(('neck', 'level_proj', 'logit_scale'))
        assert parameter.requires_grad == trained, name
        assert (parameter.grad is not None) == trained, name


def test_image_embedding_averages_levels():
    model = build(pyramid_cfg()).eval()
    batch = model.data_preprocessor(make_batch(3))
    features, _ = model(**batch, mode='embed')
    levels = torch.stack(
        [F.normalize(v) for k, v in features.items() if k != 'text']
    )
    torch.testing.assert_close(
        model(**batch, mode='tensor'), levels.mean(dim=0)
    )
