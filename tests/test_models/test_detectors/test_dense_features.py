# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""VLM scores and distillation with the poolings of public towers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_detector import DIMS, batch, build, vocabulary

META = dict(img_shape=(64, 64))
WHOLE = torch.tensor([[0.0, 0.0, 0.0, 64.0, 64.0]])
PLAIN = dict(window=None, shift=None, global_layers=4)
TEXT_DIMS = 12
TOWERS = dict(
    avg=dict(head=dict(out_dims=TEXT_DIMS)),
    late_norm=dict(head=dict(norm=True, out_dims=TEXT_DIMS)),
    value=dict(
        class_token=True,
        pre_norm=True,
        head=dict(pool='token', out_dims=TEXT_DIMS),
    ),
    attn_pool=dict(head=dict(pool='attn_pool', out_dims=TEXT_DIMS)),
)


def extractor(size):
    """Exactly the cells of the whole map, for a box of the whole image."""
    return dict(
        roi_layer=dict(
            type='RoIAlign',
            aligned=True,
            output_size=size,
            sampling_ratio=8 // size,
        )
    )


def detector(name='avg', plain=True, distill=None, **kwargs):
    """A detector with a tower whose texts have 12 dimensions."""
    torch.manual_seed(0)
    size = 8 if name == 'attn_pool' else 1
    roi_head = dict(
        bbox_head=dict(embed_dims=TEXT_DIMS), vlm_roi_extractor=extractor(size)
    )
    if distill is not None:
        roi_head['loss_distill'] = dict(type='DITOCosineDistillLoss')
        kwargs['teacher'] = dict(checkpoint=distill)
    model = build(
        mask=False,
        roi_head=roi_head,
        backbone=dict(**(PLAIN if plain else {}), **TOWERS[name]),
        **kwargs,
    )
    for parameter in model.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    names = vocabulary(3, [2])
    rows = F.normalize(torch.randn(4, TEXT_DIMS), dim=1)
    names = names.__class__(names.names, rows[:3], rows[3], names.novel, '')
    model.roi_head.bbox_head.set_vocabulary(names)
    return model.eval()


def score_route(model, image, rois=WHOLE):
    """Embeddings as the VLM score takes them."""
    head = model.roi_head
    with torch.no_grad():
        feat = model.vlm_map(image, model.extract_maps(image)[1])
        return head.vlm_embed(head.project(feat), rois, [META] * len(image))


@pytest.mark.parametrize('name', ['avg', 'late_norm', 'attn_pool'])
def test_box_of_the_whole_image_is_the_image(name):
    model, image = detector(name), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = model.backbone.embed(image)
    got = score_route(model, image)
    assert got.shape == (1, TEXT_DIMS) and want.std() > 1e-2
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_value_route_is_the_projected_mean_of_values():
    model, image = detector('value'), torch.randn(1, 3, 64, 64)
    tower = model.backbone
    with torch.no_grad():
        x = tower.patch_embed(image).flatten(2).transpose(1, 2)
        x = torch.cat([tower.cls_token, x + tower.pos_embed], dim=1)
        x = tower.blocks[0](tower.norm_pre(x).flatten(0, 1), ((1, 65),))
        last, total = tower.blocks[1], 0
        for token in x[1:]:
            value = last.attn.qkv(last.norm1(token))[2 * DIMS :]
            token = token + last.attn.proj(value)
            total = total + tower.norm(token + last.mlp(last.norm2(token)))
        want = tower.head.proj(total / 64)
    torch.testing.assert_close(
        score_route(model, image)[0], want, atol=1e-5, rtol=1e-5
    )


def test_dense_can_be_overridden():
    image = torch.randn(1, 3, 64, 64)
    model = detector('value')
    model.backbone.head.dense = 'avg'
    feat = model.backbone(image)[0]
    torch.testing.assert_close(
        score_route(model, image),
        model.backbone.head.proj(feat.mean(dim=(2, 3))).detach(),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize('name', TOWERS)
def test_scores_follow_the_texts(name):
    """The class whose text is a region's embedding has the best score z."""
    model, image = detector(name), torch.randn(1, 3, 64, 64)
    rois = torch.tensor(
        [[0.0, 0.0, 0.0, 64.0, 64.0], [0.0, 8.0, 8.0, 40.0, 30.0]]
    )
    embeds = score_route(model, image, rois)
    text = model.roi_head.bbox_head.classifier()
    torch.testing.assert_close(
        model.roi_head.vlm_logits(embeds),
        F.normalize(embeds, dim=1) @ text[:-1].T / 0.01,
    )


@pytest.mark.parametrize('name', TOWERS)
def test_detector_trains_and_predicts(name, tmp_path):
    source = detector(name)
    path = str(tmp_path / 'tower.safetensors')
    save_file(
        {
            f'backbone.{k}': v.contiguous()
            for k, v in source.backbone.state_dict().items()
        },
        path,
    )
    model = detector(name, plain=False, distill=path)
    model.train()
    data = model.data_preprocessor(batch(mask=False), True)
    losses = model(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert losses['loss_distill'] > 0
    for key, parameter in model.named_parameters():
        frozen = key.startswith('backbone.head.')
        assert parameter.requires_grad != frozen, key
        assert (parameter.grad is None) == frozen, key
    assert not any(
        p.requires_grad for p in model._teacher.backbone.parameters()
    )
    results = model.eval().test_step(batch(mask=False))
    assert all(len(r.pred_instances) > 0 for r in results)


@pytest.mark.parametrize('name', TOWERS)
def test_distillation_of_an_unchanged_tower_is_zero(name, tmp_path):
    path, source = str(tmp_path / 'tower.safetensors'), detector(name)
    save_file(
        {
            f'backbone.{k}': v.contiguous()
            for k, v in source.backbone.state_dict().items()
        },
        path,
    )
    model = detector(name, distill=path)
    model.backbone.load_state_dict(source.backbone.state_dict())
    data = model.data_preprocessor(batch(mask=False), True)
    losses = model(**data, mode='loss')
    assert float(losses['loss_distill'].detach()) < 1e-5


def test_frozen_backbone_of_the_score_embeds_regions_itself():
    model = detector('avg', vlm_backbone=dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = model.vlm_backbone.embed(image)
    torch.testing.assert_close(
        score_route(model, image), want, atol=1e-5, rtol=1e-5
    )


def test_many_regions_in_chunks():
    model, image = detector('attn_pool'), torch.randn(1, 3, 64, 64)
    corner = torch.rand(300, 2) * 30
    rois = torch.cat([torch.zeros(300, 1), corner, corner + 20], 1)
    got = score_route(model, image, rois)
    one_by_one = [score_route(model, image, roi[None]) for roi in rois[::50]]
    torch.testing.assert_close(
        got[::50], torch.cat(one_by_one), atol=1e-5, rtol=1e-5
    )
    assert score_route(model, image, rois[:0]).shape == (0, TEXT_DIMS)


def test_copies_embed_with_their_own_backbone():
    model = detector('avg')
    twin = copy.deepcopy(model)
    assert twin.roi_head.region_embed.__self__ is twin.backbone
    assert model.roi_head.region_embed.__self__ is model.backbone
    assert not any('region_embed' in k for k in model.state_dict())


def test_texts_of_other_dimensions_are_refused():
    with pytest.raises(ValueError, match='regions in 12 dimensions, .* 16'):
        build(mask=False, backbone=TOWERS['avg'])


def test_attention_over_a_single_cell_is_refused():
    with pytest.raises(ValueError, match='set output_size=14'):
        build(mask=False, backbone=dict(head=dict(pool='attn_pool')))
