# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Converted towers give the embeddings of the source."""

import open_clip
import pytest
import timm
import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from safetensors.torch import save_file
from timm.models.vision_transformer import ParallelScalingBlock
from tower_files import (
    SIGLIP_TEXT,
    TEXT,
    clip_config,
    make_meta_source,
    make_source,
    randomize,
    siglip_config,
)

from dito.converters.towers import (
    KeyReport,
    convert_tower,
    feature_error,
    read_source,
)
from dito.converters.towers.convert import random_tokens, source_image
from dito.converters.towers.source import read_open_clip
from dito.converters.towers.vision import convert_timm_vision

CLIPS = dict(
    openai=clip_config(quick_gelu=True),
    laion=clip_config(),
    layer_scale=clip_config(dict(ls_init_value=0.1)),
    odd_mlp=clip_config(dict(mlp_ratio=2.7)),
    eps=clip_config(dict(norm_kwargs=dict(eps=1e-3))),
    tanh=clip_config(
        dict(act_kwargs=dict(approximate='tanh')),
        dict(TEXT, act_kwargs=dict(approximate='tanh')),
    ),
    average=clip_config(dict(pool_type='avg', no_ln_pre=True)),
    clipa=clip_config(
        dict(pool_type='avg', no_ln_pre=True, final_ln_after_pool=True),
        dict(TEXT, pool_type='last', no_causal_mask=True),
    ),
    late_token=clip_config(dict(final_ln_after_pool=True)),
    eos=clip_config(text=dict(TEXT, pool_type='eos', eos_id=59)),
    siglip=siglip_config(),
    siglip2=dict(
        siglip_config(),
        text_cfg=dict(SIGLIP_TEXT, act_kwargs=dict(approximate='tanh')),
    ),
    projected=siglip_config('dito_test_vit')
    | dict(
        embed_dim=24,
        vision_cfg=dict(
            image_size=32,
            timm_model_name='dito_test_vit',
            timm_pool='token',
            timm_proj=None,
        ),
    ),
    linear=dict(
        embed_dim=24,
        vision_cfg=dict(
            image_size=32,
            timm_model_name='dito_test_vit',
            timm_pool='avg',
            timm_proj='linear',
            timm_proj_bias=True,
        ),
        text_cfg=TEXT,
    ),
)


@pytest.fixture(autouse=True)
def _no_scope() -> None:
    """Forget the scope that a runner of another file's tests has set."""
    DefaultScope._instance_dict.clear()


def assert_equal(source, tower):
    """Raw embeddings agree to 1e-4."""
    size = tower.backbone['img_size']
    image = torch.randn(2, 3, size, size)
    parts = {}
    for prefix, config in (
        ('backbone.', tower.backbone),
        ('text_encoder.', tower.text_encoder),
    ):
        if config is not None:
            parts[prefix] = MODELS.build(config).eval()
            parts[prefix].load_state_dict(
                {
                    k.removeprefix(prefix): v
                    for k, v in tower.state.items()
                    if k.startswith(prefix)
                }
            )
    with torch.no_grad():
        want, got = (
            source_image(source, image),
            parts['backbone.'].embed(image),
        )
        assert want.std() > 1e-2
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
        if 'text_encoder.' in parts:
            tokens = random_tokens(
                source.model, 3, torch.Generator().manual_seed(0)
            )
            torch.testing.assert_close(
                parts['text_encoder.'](tokens),
                source.model.encode_text(tokens),
                atol=1e-4,
                rtol=0,
            )


@pytest.mark.parametrize('name', CLIPS)
def test_embeddings_of_open_clip_models(name, tmp_path):
    source = make_source(CLIPS[name], tmp_path)
    tower = convert_tower(source)
    assert_equal(source, tower)
    assert max(feature_error(source, tower).values()) < 1e-5
    assert ('logit_bias' in tower.state) == (
        'siglip' in name or name == 'projected'
    )
    assert tower.state['logit_scale'].shape == ()


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(global_pool='avg'),
        dict(global_pool='avg', fc_norm=False),
        dict(global_pool='token', fc_norm=True),
        dict(class_token=False, global_pool='map'),
        dict(no_embed_class=True),
        dict(qkv_bias=False),
        dict(init_values=0.1),
        dict(pre_norm=True, act_layer='quick_gelu', num_classes=24),
    ],
)
def test_embeddings_of_timm_models(options, tmp_path):
    model = randomize(timm.create_model('dito_test_vit', **options))
    report = KeyReport(model.state_dict())
    for part in ('weight', 'bias'):
        report.leave(f'head.{part}', 'classes')
    config = convert_timm_vision(model, None, report)
    report.check()
    backbone = MODELS.build(config).eval()
    backbone.load_state_dict(
        {k.removeprefix('backbone.'): v for k, v in report.state.items()}
    )
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = model.forward_head(
            model.forward_features(image), pre_logits=True
        )
        torch.testing.assert_close(
            backbone.embed(image), want, atol=1e-4, rtol=0
        )


def test_pool_decides_how_regions_are_embedded(tmp_path):
    dense = {
        name: convert_tower(make_source(CLIPS[name], tmp_path)).metadata()[
            'dense'
        ]
        for name in ('laion', 'clipa', 'siglip')
    }
    assert dense == dict(laion='value', clipa='avg', siglip='attn_pool')


@pytest.mark.parametrize(
    'model, what',
    [
        (dict(name='dito_test_vit', reg_tokens=2), 'register tokens'),
        (dict(name='dito_test_vit', qk_norm=True), 'LayerNorms within'),
        (
            dict(name='dito_test_vit', pos_embed='none', no_embed_class=True),
            'no learnt position',
        ),
        (dict(name='dito_test_vit', final_norm=False), 'last LayerNorm'),
        (dict(name='dito_test_vit', act_layer='relu'), 'the activation ReLU'),
        (dict(name='dito_test_vit', img_size=(32, 16)), 'images of 32 x 16'),
        (dict(name='dito_test_vit', global_pool='max'), "pooling 'max'"),
        (dict(name='vit_small_patch16_18x2_224'), 'class ParallelThingsBlock'),
        (
            dict(name='dito_test_vit', block_fn=ParallelScalingBlock),
            'class ParallelScalingBlock',
        ),
        (dict(name='eva02_tiny_patch14_224'), 'rotary positions'),
        (dict(name='vit_pe_core_tiny_patch16_384'), 'rotary positions'),
        (dict(name='vit_base_patch14_reg1_tipsv2'), 'register tokens'),
        (dict(name='vit_relpos_small_patch16_224'), 'VisionTransformerRelPos'),
    ],
)
def test_timm_models_of_another_kind_are_refused(model, what):
    with torch.device('meta'):
        trunk = timm.create_model(model.pop('name'), **model)
        with pytest.raises(ValueError, match=what):
            convert_timm_vision(trunk, None, KeyReport(trunk.state_dict()))


@pytest.mark.parametrize(
    'config, what',
    [
        (
            clip_config(dict(attentional_pool=True, attn_pooler_heads=2)),
            'attentional pooler',
        ),
        (clip_config(dict(qk_norm=True)), 'CustomResidualAttentionBlock'),
        (
            clip_config(dict(layers=[1, 1, 1, 1], width=8)),
            'class ModifiedResNet',
        ),
        (
            clip_config(text=dict(TEXT, embed_cls=True)),
            'is not a plain transf',
        ),
        (clip_config(multimodal_cfg=dict()), 'CoCa'),
        (clip_config(text=dict(hf_model_name='roberta-base')), 'not a plain'),
    ],
)
def test_open_clip_models_of_another_kind_are_refused(config, what, tmp_path):
    plain = {k: v for k, v in config.items() if k != 'multimodal_cfg'}
    if 'width' not in config['text_cfg']:
        plain = clip_config()
    with pytest.raises(ValueError, match=what):
        source = make_source(plain, tmp_path)
        if plain != config:
            read_open_clip(
                'other', config, tmp_path / 'weights.safetensors', {}, {}
            )
        convert_tower(source)


@pytest.mark.parametrize(
    'name',
    ['hf-hub:someone/tower', 'local-dir:/tmp', 'no_such_model', ['vit'], 3],
)
def test_a_config_leads_to_no_other_files(name, tmp_path, monkeypatch):
    monkeypatch.setattr(timm, 'create_model', None)
    with pytest.raises(ValueError, match='timm_model_name=.* no model'):
        read_open_clip('x', siglip_config(name), tmp_path / 'none', {}, {})


def test_unmatched_weights_fail(tmp_path):
    source = make_source(clip_config(), tmp_path)
    source.state['visual.extra.weight'] = torch.zeros(2)
    with pytest.raises(ValueError, match='1 of .*: visual.extra.weight;'):
        convert_tower(source)
    del source.state['visual.extra.weight'], source.state['visual.proj']
    with pytest.raises(ValueError, match="have no 'visual.proj'"):
        convert_tower(source)


def test_half_precision_weights_become_float32(tmp_path):
    source = make_source(clip_config(), tmp_path)
    source.state = {k: v.half() for k, v in source.state.items()}
    state = convert_tower(source).state
    assert {v.dtype for v in state.values()} == {torch.float32}


def test_real_names(tmp_path):
    """A named model through its file, as a user does it."""
    model = open_clip.create_model('ViT-S-32-alt')
    path = tmp_path / 'weights.safetensors'
    save_file(model.state_dict(), path)
    source = read_source('ViT-S-32-alt', path)
    tower = convert_tower(source)
    assert tower.backbone['arch'] == 'small'
    assert max(feature_error(source, tower, batch=1).values()) < 1e-4
    assert_equal(source, tower)


@pytest.mark.parametrize(
    'name, arch, pool, dims',
    [
        ('ViT-B-32-quickgelu', 'base', 'token', 512),
        ('ViT-L-14-336', 'large', 'token', 768),
        ('ViT-L-14-CLIPA', 'large', 'avg', 768),
        ('ViT-B-16-SigLIP', 'base', 'attn_pool', None),
        (
            'ViT-SO400M-14-SigLIP2',
            dict(embed_dims=1152, num_layers=27, num_heads=16),
            'attn_pool',
            None,
        ),
    ],
)
def test_structure_of_real_names(name, arch, pool, dims):
    """Without memory for the weights: every one has its place."""
    with torch.device('meta'):
        tower = convert_tower(make_meta_source(name))
        for prefix, part in (
            ('backbone.', tower.backbone),
            ('text_encoder.', tower.text_encoder),
        ):
            MODELS.build(part).load_state_dict(
                {
                    k.removeprefix(prefix): v
                    for k, v in tower.state.items()
                    if k.startswith(prefix)
                }
            )
    head = tower.backbone['head']
    assert (head['pool'], head.get('out_dims')) == (pool, dims)
    found = tower.backbone['arch']
    if isinstance(arch, dict):
        found = {k: found[k] for k in arch}
    assert found == arch
