# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn.functional as F
from pretrainer_models import build, clip_cfg, make_batch, rep_cfg

from dito.models.pretrainers.random_regions import to_rois


def run(model, batch, mode='loss'):
    return model(**model.data_preprocessor(batch, True), mode=mode)


@pytest.mark.parametrize('prior, weight', [(0.5, 1.0), (0.1, 0.25)])
def test_losses_against_a_loop_over_levels(prior, weight):
    model = build(
        rep_cfg(
            logit_scale_init=1.0,
            objectness_prior=prior,
            rpn_loss_weight=weight,
        )
    )
    odds = prior / (1 - prior)
    batch = make_batch()
    values = run(model, batch)
    inputs = model.data_preprocessor(batch)['inputs']
    feats = model.neck(model.backbone(inputs))
    text = F.normalize(model.encode_texts(batch['texts']))
    boxes = model.regions(4, (32, 32), batch['place'])
    objectness = model.rpn_head.forward_objectness(feats)
    labels, rpn, targets = torch.arange(4), 0, []
    for i, level in enumerate(boxes):
        layer = model.roi_head.bbox_roi_extractor.roi_layers[i]
        regions = model.roi_head.bbox_head.embed(
            layer(feats[i], to_rois(level))
        ).view(4, level.shape[1], -1)
        image = F.normalize(regions.max(dim=1).values)
        logits = values['logit_scale'] * image @ text.T
        loss = (
            F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
        ) / 2
        torch.testing.assert_close(values[f'loss_p{i + 2}'], loss)
        stride, total = 2 ** (i + 1), 0
        for b in range(4):
            for n, box in enumerate(level[b]):
                target = (F.normalize(regions[b, n], dim=0) @ text[b]).clamp(
                    min=0
                )
                x = int((box[0] + box[2]) / 2 / stride)
                y = int((box[1] + box[3]) / 2 / stride)
                grown = odds * objectness[i][b, 0, y, x].exp()
                score = grown / (1 + grown)
                total = total + (score - target).abs()
                targets.append(target)
        rpn = rpn + weight * total / (4 * level.shape[1])
    torch.testing.assert_close(values['loss_rpn'], rpn)
    torch.testing.assert_close(
        values['rpn_target'], torch.stack(targets).mean()
    )
    total, _ = model.parse_losses(values)
    parts = sum(values[f'loss_p{i}'] for i in (2, 3, 4, 5)) + rpn
    torch.testing.assert_close(total, parts)


@pytest.mark.parametrize('prior', [0, 1, -0.1])
def test_a_prior_that_is_no_objectness_is_refused(prior):
    with pytest.raises(ValueError, match=f'between 0 and 1, got {prior}'):
        build(rep_cfg(objectness_prior=prior))


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(rpn_head=None),
        dict(levels='all'),
        dict(pooling='mean'),
        dict(regions=dict(type='WholeImageRegion')),
        dict(pooling='global_mean'),
        dict(pooling='global_max'),
        dict(loss=dict(type='DITOSigmoidLoss'), logit_bias_init=-10.0),
    ],
)
def test_what_is_trained_has_a_gradient_and_the_rest_none(kwargs):
    model = build(rep_cfg(**kwargs))
    # Heads start at small weights; a plain start shows every path.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    loss, _ = model.parse_losses(run(model, make_batch()))
    loss.backward()
    frozen = (
        'backbone',
        'text_encoder',
        'rpn_head.rpn_reg',
        'roi_head.bbox_head.fc_reg',
        'roi_head.bbox_head.temperature_scale',
    )
    for name, parameter in model.named_parameters():
        if name.startswith(frozen):
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        else:
            assert parameter.requires_grad, name
            assert parameter.grad is not None, name
            # A linear map's bias before a maximum may meet a zero gradient
            # by chance, weights do not.
            assert torch.isfinite(parameter.grad).all(), name
            if 'rpn' not in name:
                assert parameter.grad.abs().sum() > 0, name


def test_objectness_does_not_move_the_embeddings():
    """The target is cut off: the RPN loss trains RPN and pyramid only."""
    model = build(rep_cfg())
    run(model, make_batch())['loss_rpn'].backward()
    for name, parameter in model.named_parameters():
        has_grad = parameter.grad is not None
        expected = name.startswith(
            (
                'neck',
                'rpn_head.rpn_convs',
                'rpn_head.rpn_norms',
                'rpn_head.rpn_cls',
            )
        )
        assert has_grad == expected, name


def test_towers_stay_in_evaluation_mode():
    model = build(rep_cfg())
    model.train()
    assert model.neck.training and model.roi_head.training
    assert not model.backbone.training and not model.text_encoder.training
    assert not any(m.training for m in model.backbone.modules())


def test_pooling_and_levels():
    batch = make_batch()
    model = build(rep_cfg())
    features, _ = run(model, batch, 'embed')
    assert list(features) == ['p2', 'p3', 'p4', 'p5', 'text']
    joint = build(rep_cfg(levels='all'))
    joint.load_state_dict(model.state_dict())
    every, _ = run(joint, batch, 'embed')
    maximum = torch.stack([features[f'p{i}'] for i in (2, 3, 4, 5)]).amax(0)
    assert list(every) == ['all', 'text']
    torch.testing.assert_close(every['all'], maximum)
    mean = build(rep_cfg(pooling='mean'))
    mean.load_state_dict(model.state_dict())
    averaged, _ = run(mean, batch, 'embed')
    assert (averaged['p3'] < features['p3']).all()


@pytest.mark.parametrize(
    'pooling,oracle',
    [
        ('global_mean', F.adaptive_avg_pool2d),
        ('global_max', F.adaptive_max_pool2d),
    ],
)
def test_global_pooling_to_the_cells_of_a_box(pooling, oracle):
    model = build(rep_cfg(pooling=pooling, global_size=None))
    batch = make_batch()
    features, local = run(model, batch, 'embed')
    feats = model.pyramid(model.data_preprocessor(batch)['inputs'])
    for number, feat in enumerate(feats, 2):
        expected = model.roi_head.bbox_head.embed(oracle(feat, 7))
        torch.testing.assert_close(features[f'p{number}'], expected)
    # The proposal head learns from boxes as ever, nothing else does.
    boxed, usual = run_with(model, batch, pooling='max')
    torch.testing.assert_close(local['loss_rpn'], usual['loss_rpn'])
    assert not torch.allclose(boxed['p2'], features['p2'])
    assert 'win_small' not in local and 'win_small' in usual


@pytest.mark.parametrize(
    'pooling, reduce',
    [('global_mean', torch.mean), ('global_max', torch.amax)],
)
def test_global_pooling_to_a_single_pixel(pooling, reduce):
    """4.2: "the limited capacity of a single pixel", the default."""
    model, batch = build(rep_cfg(pooling=pooling)), make_batch()
    features, _ = run(model, batch, 'embed')
    feats = model.pyramid(model.data_preprocessor(batch)['inputs'])
    for number, feat in enumerate(feats, 2):
        pixel = torch.empty(*feat.shape[:2], 7, 7)
        for b, image in enumerate(feat):
            for c, channel in enumerate(image):
                pixel[b, c] = reduce(channel.flatten(), dim=0)
        torch.testing.assert_close(
            features[f'p{number}'], model.roi_head.bbox_head.embed(pixel)
        )


def run_with(model, batch, **kwargs):
    other = build(rep_cfg(**kwargs))
    other.load_state_dict(model.state_dict())
    return run(other, batch, 'embed')


@pytest.mark.parametrize('levels', ['separate', 'all'])
def test_sizes_of_winning_boxes(levels):
    model = build(rep_cfg(levels=levels))
    batch = make_batch()
    _, local = run(model, batch, 'embed')
    inputs = model.data_preprocessor(batch)['inputs']
    boxes = model.regions(4, (32, 32), batch['place'])
    regions = model._embed_regions(model.pyramid(inputs), boxes)
    if levels == 'all':
        boxes, regions = [torch.cat(boxes, 1)], [torch.cat(regions, 1)]
    counts, total = [0, 0, 0], 0
    for level, place in zip(regions, boxes, strict=True):
        share = 1 / (len(regions) * 4 * 16)
        for b in range(4):
            for channel in range(16):
                box = place[b, level[b, :, channel].argmax()]
                side = ((box[2] - box[0]) * (box[3] - box[1])).sqrt() / 32
                counts[int(side > 0.3) + int(side > 0.4)] += share
                total += share
    assert total == pytest.approx(1)
    for name, count in zip(('small', 'medium', 'large'), counts, strict=True):
        assert local[f'win_{name}'].item() == pytest.approx(count, abs=1e-6)


def test_starts_from_stage_one():
    clip, rep = build(clip_cfg()), build(rep_cfg())
    clip.logit_scale.data.fill_(4.0)
    missing, unexpected = rep.load_state_dict(clip.state_dict(), strict=False)
    assert not unexpected and rep.logit_scale.item() == 4
    assert {name.split('.')[0] for name in missing} == {
        'neck',
        'rpn_head',
        'roi_head',
    }


def test_image_embedding_does_not_depend_on_the_batch():
    model = build(rep_cfg()).eval()
    batch = make_batch(3)
    whole = run(model, batch, 'tensor')
    assert whole.shape == (3, 16)
    one = run(model, dict(batch, inputs=batch['inputs'][1:2]), 'tensor')
    torch.testing.assert_close(whole[1:2], one)


def test_image_embedding_does_not_depend_on_the_process(monkeypatch):
    """Else retrieval would compare images by different boxes."""
    model, batch = build(rep_cfg()).eval(), make_batch(3)
    one = run(model, batch, 'tensor')
    monkeypatch.setattr(
        'dito.models.pretrainers.random_regions.get_dist_info', lambda: (1, 2)
    )
    assert torch.equal(run(model, batch, 'tensor'), one)


def test_wrong_arguments():
    for kwargs, text in (
        (dict(pooling='min'), 'pooling is'),
        (dict(levels='each'), 'levels is'),
        (dict(global_size=0), 'at least 1 cell'),
    ):
        with pytest.raises(ValueError, match=text):
            build(rep_cfg(**kwargs))
    with pytest.raises(ValueError, match='3 levels, the RoI extractor has 4'):
        run(build(rep_cfg(num_regions=(1, 2, 3))), make_batch())
