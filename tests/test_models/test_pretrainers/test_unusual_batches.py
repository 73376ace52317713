# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Batches and captions that a run meets sooner or later."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from pretrainer_models import build, clip_cfg, make_batch, pyramid_cfg, rep_cfg

from dito.engine.loops.cached_step import cached_train_step

STAGES = dict(clip=clip_cfg, rep=rep_cfg, fpn=pyramid_cfg)


def losses(model, batch):
    values = model(**model.data_preprocessor(batch, True), mode='loss')
    total, _ = model.parse_losses(values)
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
    return values


@pytest.mark.parametrize('stage', list(STAGES))
@pytest.mark.parametrize(
    'loss',
    ['DITOContrastiveLoss', 'DITOFocalContrastiveLoss', 'DITOSigmoidLoss'],
)
def test_batch_of_one(stage, loss):
    model = build(STAGES[stage](loss=dict(type=loss)))
    values = losses(model, make_batch(1))
    name = 'image' if stage == 'clip' else 'p2'
    assert values[f'recall_{name}'] == 1
    if loss == 'DITOContrastiveLoss':
        assert values[f'loss_{name}'] == 0  # nothing to tell apart
    wrapper = OptimWrapper(
        torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=0.1
        )
    )
    logs = cached_train_step(model, make_batch(1), wrapper, 1)
    assert torch.isfinite(logs['loss'])


@pytest.mark.parametrize('stage', list(STAGES))
def test_empty_captions_are_all_alike(stage):
    model = build(STAGES[stage]())
    batch = dict(make_batch(), texts=[''] * 4)
    text = model.encode_texts(batch['texts'])
    assert torch.isfinite(text).all()
    assert torch.equal(text, text[:1].expand(4, -1))
    losses(model, batch)


def test_empty_batch_and_missing_captions_are_named():
    model = build(clip_cfg())
    empty = dict(inputs=torch.zeros(0, 3, 32, 32), texts=[])
    with pytest.raises(ValueError, match='no image'):
        model(**empty, mode='loss')
    images = torch.zeros(2, 3, 32, 32)
    with pytest.raises(ValueError, match='2 images need as many .* got 1'):
        model(images, ['a cat'], mode='embed')
    with pytest.raises(ValueError, match='got None'):
        model(images, mode='loss')
    with pytest.raises(ValueError, match='has no caption'):
        model(images, [['a cat'], []], mode='predict')


def test_long_caption_is_cut_and_keeps_its_end():
    model = build(clip_cfg())
    encoder = model.text_encoder
    long = ' '.join(['red cat'] * 50)
    tokens = encoder.tokenize([long, 'a red cat'])
    assert tokens.shape == (2, encoder.context_length)
    end = tokens[1].max()
    assert tokens[0, -1] == end and (tokens[0] == end).sum() == 1
    # What was cut off has no influence.
    other = encoder.tokenize([long + ' a tree'])
    assert torch.equal(tokens[:1], other)
    losses(model, dict(make_batch(2), texts=[long, 'a red cat']))


NON_ASCII = [
    'eine Straße im Süden',
    '猫が二匹',
    'кот 🐈 on a mat',
    'caf\u00e9 \u2013 na\u00efve',
    '\u0000\u200b',
]


@pytest.mark.parametrize('whole_table', [True, False])
def test_non_ascii_captions(whole_table):
    cfg = clip_cfg()
    if whole_table:
        cfg['text_encoder'].update(token_ids=None, context_length=32)
    model = build(cfg)
    tokens = model.text_encoder.tokenize(NON_ASCII)
    assert (tokens >= 0).all()
    if whole_table:
        # Bytes without a word of their own are still told apart.
        assert len({tuple(row.tolist()) for row in tokens[:4]}) == 4
        assert model.text_encoder.unknown_pieces(NON_ASCII) == []
    else:
        assert model.text_encoder.unknown_pieces(NON_ASCII)
    losses(model, dict(make_batch(5), texts=NON_ASCII))
