# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The tool: files in, a checkpoint out, and what it refuses."""

import hashlib
import json

import pytest
import timm
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from safetensors.torch import load_file, save_file
from tower_files import clip_config, randomize, save_model, siglip_config

from dito.cli import foreign_weights
from dito.cli.foreign_weights import clip_to_dito
from dito.converters.towers import source as tower_source
from dito.engine.hooks.load_report_hook import LoadReport, fit_state_dict
from dito.utils.checkpoint import load_from_safetensors


@pytest.fixture
def folder(tmp_path):
    """A folder as the hub has them."""

    def make(config):
        path = tmp_path / 'model'
        path.mkdir()
        save_model(config, path / 'open_clip_model.safetensors')
        (path / 'open_clip_config.json').write_text(
            json.dumps(
                dict(
                    model_cfg=config,
                    preprocess_cfg=dict(
                        mean=[0.5, 0.5, 0.5],
                        std=[0.25, 0.5, 1.0],
                        interpolation='bicubic',
                        size=32,
                    ),
                )
            )
        )
        return path

    return make


def test_a_folder_becomes_a_checkpoint_of_stage_1(folder, tmp_path, capsys):
    source, out = folder(clip_config()), tmp_path / 'out.safetensors'
    assert clip_to_dito([str(source), str(out), '--patch-size', '4']) == 0
    text = capsys.readouterr().out
    assert 'taken      backbone.cls_token' in text
    assert ('<- visual.class_embedding + positional_embedding[0]') in text
    assert 'resampled  backbone.patch_embed.proj.weight' in text
    assert '62 weights taken, 1 of them resampled; 0 of the source' in text
    assert 'image embeddings differ from the source by at most' in text
    assert 'text embeddings differ from the source by at most' in text
    content = load_from_safetensors(str(out))
    meta = content['meta']
    weights = source / 'open_clip_model.safetensors'
    assert (
        meta['source']['sha256']
        == hashlib.sha256(weights.read_bytes()).hexdigest()
    )
    assert meta['source']['file'] == weights.name
    assert meta['source']['model'] == 'model'
    assert (meta['pool'], meta['dense'], meta['act']) == (
        'token',
        'value',
        'gelu',
    )
    assert meta['preprocess'] == dict(
        mean=[127.5] * 3,
        std=[63.75, 127.5, 255.0],
        image_size=16,
        interpolation='bicubic',
        resize_mode='shortest',
    )
    # The printed settings are a config; the checkpoint fills its model.
    cfg = Config.fromstring(text.partition('Settings for a config:')[2], '.py')
    assert cfg.model.data_preprocessor.std == [63.75, 127.5, 255.0]
    model = MODELS.build(
        dict(
            type='CLIPPretrainer',
            backbone=cfg.model.backbone,
            text_encoder=cfg.model.text_encoder,
        )
    )
    report = LoadReport.compare(
        model.state_dict(), fit_state_dict(model, content)
    )
    assert not report.missing + report.unused + list(report.mismatched)


def test_siglip_with_a_chosen_dense(folder, tmp_path, capsys):
    out = str(tmp_path / 'out.safetensors')
    source = folder(siglip_config())
    edited(
        source,
        text_cfg=dict(
            hf_tokenizer_name='some/SigLIP',
            tokenizer_kwargs=dict(clean='canonicalize'),
        ),
    )
    source = str(source)
    assert clip_to_dito([source, out, '--dense', 'avg']) == 0
    content = load_from_safetensors(out)
    assert content['meta']['tokenizer'] == dict(
        name='some/SigLIP', clean='canonicalize'
    )
    # A tower of a config that says nothing of it cleans its texts as this.
    cleaning = content['state_dict']['text_encoder.text_cleaning']
    assert cleaning.tolist() == [2, 0]
    assert 'need the tokenizer' in capsys.readouterr().out
    assert content['meta']['dense'] == 'avg'
    assert content['meta']['model']['backbone']['head'] == dict(
        pool='attn_pool', dense='avg'
    )
    assert content['state_dict']['logit_bias'].shape == ()


@pytest.mark.parametrize('suffix', ['.pt', '.safetensors'])
def test_image_tower_of_timm(suffix, tmp_path, capsys):
    model = randomize(timm.create_model('dito_test_vit', num_classes=7))
    weights, out = tmp_path / f'w{suffix}', tmp_path / 'out.safetensors'
    if suffix == '.pt':
        torch.save(model.state_dict(), weights)
    else:
        save_file(model.state_dict(), weights)
    assert (
        clip_to_dito(
            ['timm:dito_test_vit', str(out), '--weights', str(weights)]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert 'left out   head.weight' in text
    assert 'text embeddings' not in text
    state = load_file(out)
    assert all(k.startswith('backbone.') for k in state)
    assert load_from_safetensors(str(out))['meta']['left_out'] == {
        f'head.{k}': 'the classifier: classes come as texts here'
        for k in ('weight', 'bias')
    }


def test_wrong_conversion_writes_nothing(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        foreign_weights,
        'feature_error',
        lambda *args: dict(image=float('nan'), text=0.0),
    )
    out = tmp_path / 'out.safetensors'
    source = str(folder(clip_config()))
    assert clip_to_dito([source, str(out)]) == 2
    assert 'does not give the embeddings' in capsys.readouterr().err
    assert not out.exists()
    assert clip_to_dito([source, str(out), '--no-check']) == 0
    assert out.exists()


def test_openai_weights_have_their_activation(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        tower_source,
        'read_open_clip',
        lambda name, config, weights, preprocess, meta: seen.append(
            (config.get('quick_gelu'), preprocess['mean'][0], meta)
        ),
    )
    weights = tmp_path / 'w.pt'
    tower_source.read_source('ViT-B-16', weights, 'openai')
    tower_source.read_source('ViT-B-16', weights, 'laion2b_s34b_b88k')
    tower_source.read_source('ViT-B-16', weights)
    tower_source.read_source('ViT-B-16-SigLIP', weights)
    assert [s[0] for s in seen] == [True, None, None, None]
    assert seen[0][2] == dict(tag='openai')
    assert [round(s[1], 3) for s in seen] == [0.481, 0.481, 0.481, 0.5]


def edited(folder, **config):
    """The folder's config with other settings of the towers."""
    path = folder / 'open_clip_config.json'
    content = json.loads(path.read_text())
    for part, values in config.items():
        content['model_cfg'][part].update(values)
    path.write_text(json.dumps(content))


def test_weights_of_another_model_are_refused(folder, tmp_path, capsys):
    source = folder(clip_config())
    edited(source, vision_cfg=dict(width=64, layers=1))
    assert clip_to_dito([str(source), str(tmp_path / 'out.safetensors')]) == 2
    error = capsys.readouterr().err
    assert 'does not hold the weights of model' in error
    assert 'is not known' in error or 'instead of' in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    'args, message',
    [
        (['ViT-B-16', 'out.safetensors'], 'give --weights'),
        (
            ['ViT-B-17', 'out.safetensors', '--weights', 'x'],
            'neither a folder',
        ),
        (
            ['hf-hub:a/b', 'out.safetensors', '--weights', 'x'],
            'neither a folder',
        ),
        (['timm:vit_x', 'out.safetensors', '--weights', 'x'], 'timm has no'),
        (
            ['ViT-B-16', 'out.safetensors', '--weights', 'x', '--tag', 'y'],
            "knows no weights 'y'",
        ),
        (['ViT-L-14', 'out.safetensors', '--weights', 'x'], 'with --tag'),
        (
            ['roberta-ViT-B-32', 'out.safetensors', '--weights', 'x'],
            'is not a plain transformer',
        ),
        (['coca_ViT-B-32', 'out.safetensors', '--weights', 'x'], 'CoCa'),
    ],
)
def test_bad_arguments_are_one_sentence(args, message, capsys):
    assert clip_to_dito(args) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_bad_folders_are_one_sentence(folder, tmp_path, capsys):
    out = str(tmp_path / 'out.safetensors')
    assert clip_to_dito([str(tmp_path), out]) == 2
    assert 'has no open_clip_config.json' in capsys.readouterr().err
    source = folder(clip_config())
    assert clip_to_dito([str(source), out, '--tag', 'openai']) == 2
    assert 'A tag goes with a name' in capsys.readouterr().err
    (source / 'open_clip_model.safetensors').unlink()
    assert clip_to_dito([str(source), out]) == 2
    assert 'give the file with --weights' in capsys.readouterr().err
    (source / 'open_clip_config.json').write_text('{}')
    assert clip_to_dito([str(source), out]) == 2
    assert 'is no config of an open_clip model' in capsys.readouterr().err


def test_pickled_code_is_not_run(folder, tmp_path, capsys):
    source = folder(clip_config())
    weights = tmp_path / 'w.pt'
    torch.save(dict(a=torch.nn.Linear(1, 1)), weights)
    assert (
        clip_to_dito(
            [
                str(source),
                str(tmp_path / 'out.safetensors'),
                '--weights',
                str(weights),
            ]
        )
        == 2
    )
    assert 'could run code from the file' in capsys.readouterr().err
