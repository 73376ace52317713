# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of the reading of configs inside checkpoints."""

import copy
from pathlib import Path
from typing import Any

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from tiny_detector import TEXT_ENCODER, tiny_config
from yapf.yapflib import yapf_api

from dito.apis.config_text import (
    check_config,
    imports_by_name_refused,
    parse_config_text,
)


def test_round_trip() -> None:
    content = dict(
        model=dict(
            type='mmdet.DITO', size=(1, -2.5), names=['a', "b'c"], none=None
        ),
        flags={True, False},
        table={'odd key': 1, 2: dict(x=3)},
        limits=(float('inf'), -float('inf'), -3, -0.5),
        pipeline=[dict(type='Resize', scale=(64, 64)), dict(type='Pad')],
    )
    text = Config(content).pretty_text
    assert parse_config_text(text) == content


def test_text_is_formatted_when_the_config_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def format_code(text: str, **options: Any) -> tuple[str, bool]:
        seen.append(text)
        return text, True

    monkeypatch.setattr(yapf_api, 'FormatCode', format_code)
    cfg = Config(dict(a=1, model=dict(depth=[1, 2])))
    assert cfg.pretty_text == cfg.pretty_text == copy.deepcopy(cfg).pretty_text
    assert len(seen) == 1
    cfg.model.depth[1] = 3
    assert parse_config_text(cfg.pretty_text)['model'] == dict(depth=[1, 3])
    assert len(seen) == 2


def test_own_imports_are_left_out_and_others_refused() -> None:
    text = "custom_imports = dict(imports=['dito'])\nx = 1\n"
    assert parse_config_text(text) == dict(x=1)
    for imports in (
        "dict(imports=['os'])",
        "dict(imports='os')",
        "['os']",
        'dict(imports=3)',
    ):
        with pytest.raises(ValueError, match='custom_imports=.* imports code'):
            parse_config_text(f'custom_imports = {imports}', 'x.pth')


@pytest.mark.parametrize(
    'text',
    [
        'import os',
        "x = __import__('os')",
        'x = y',
        'x = [i for i in (1, 2)]',
        'x = (1).bit_length()',
        "x = f'{1}'",
        'x, y = 1, 2',
        "x = dict([('a', 1)])",
        'x = dict(**{})',
        "x = {**{'a': 1}}",
        'x = lambda: 0',
    ],
)
def test_refuses_more_than_values(text: str) -> None:
    with pytest.raises(ValueError, match='more than plain values'):
        parse_config_text(text)


@pytest.mark.parametrize(
    'kind',
    [
        'os.system',
        'mmengine.fileio.get',
        'builtins.exec',
        'mmengine.call_command',
        'mmengine.load',
        'mmdet.os',
        'dito.Nothing',
        'mmengine.model.BaseModel',
        '.DITO',
        'mmdet.',
    ],
)
def test_refuses_types_by_place(kind: str) -> None:
    for text in (
        f"x = dict(type='{kind}')",
        f"x = [dict(y=(dict(type='{kind}'),))]",
    ):
        with pytest.raises(ValueError, match=f'type={kind!r} is no regist'):
            parse_config_text(text)


@pytest.mark.parametrize(
    'text, reason',
    [
        ('x = ' + '[' * 3000 + ']' * 3000, 'levels of brackets'),
        ('x = ' + '-' * 100_000 + '1', ''),
        ('x = 1' + ' + 1' * 100_000, ''),
        ('x = 1' + '.a' * 100_000, ''),
        # Some are parsed, and too deep for what walks over the result.
        *(
            (f'x = {before * deep}1{after * deep}', '')
            for deep in (400, 900, 1100, 1500, 2500)
            for before, after in (
                ('not ', ''),
                ('1 + ', ''),
                ('', ' .a'),
                ('', ' ()'),
                ('lambda: ', ''),
                ('1 ** ', ''),
                ('1 if 0 else ', ''),
            )
        ),
        ('x = ' + '-' * 1500 + '1', ''),
        ('x = ' + '1' * 10_000, 'not readable'),
        ('x = 0x' + 'f' * 500_000, 'more than plain values'),
        ('x = "\\ud800"\ny = \0', 'not readable'),
        ('x = {[]: 1}', 'more than plain values'),
        ('x = {(1, [2])}', 'more than plain values'),
        ('x = 1\n' * 700_000, 'is no config'),
        ("_base_ = ['evil.py']", '_base_=.* inherits'),
        ('x = dict(_delete_=True)', '_delete_=True inherits'),
    ],
)
def test_hostile_texts_get_a_sentence(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match='config inside a.pth') as error:
        parse_config_text(text, 'a.pth')
    assert reason == '' or error.match(reason)
    assert len(str(error.value)) < 300 and str(error.value).isprintable()


# ----------------------------------------------------- what it may name


def _config() -> dict[str, Any]:
    """A detector with its test, as a file of weights holds it."""
    return dict(
        default_scope='mmdet',
        model=tiny_config(text_encoder=TEXT_ENCODER).to_dict(),
        visualizer=dict(type='DetLocalVisualizer', line_width=2),
        test_dataloader=dict(
            dataset=dict(
                pipeline=[
                    dict(type='DITOLoadImageFromFile'),
                    dict(
                        type='RandomApply',
                        transforms=[
                            dict(
                                type='mmdet.Resize',
                                scale=(64, 64),
                                keep_ratio=True,
                            )
                        ],
                    ),
                    dict(type='PackDetInputs', meta_keys=('img_path',)),
                ]
            )
        ),
        custom_hooks=[
            dict(type='DITOVocabularyHook', templates=['a photo: {}/x'])
        ],
    )


def test_detectors_pass() -> None:
    config = _config()
    config['model']['_scope_'] = 'dito'
    config['model']['neck']['norm_cfg'] = dict(type='LN')
    config['model']['text_encoder']['tokenizer'] = dict(path='towers/siglip')
    check_config(config, 'x.pth')


COMMAND = dict(type='mmengine.call_command', cmd=['touch', 'x'])
BAD = [
    ('model.type', 'mmengine.load'),
    ('model.backbone', COMMAND),
    ('model.backbone.type', 'a_module_here'),
    ('model.backbone.type', 'Resize'),
    ('model.backbone.type', ['DITOViT']),
    ('model.backbone.type', 3),
    ('model.backbone.type', 'a.DITOViT'),
    ('model.backbone.type', 'mmdet.mmdet.DITOViT'),
    ('model.backbone._scope_', 'evil'),
    ('model.backbone._scope_', 'mmengine'),
    ('model.backbone._base_', 'x'),
    ('model.backbone.x', [[dict(y=COMMAND)]]),
    ('model.backbone.init_cfg', dict(type='Pretrained', checkpoint='a.pth')),
    ('model.backbone.pretrained', 'torchvision://resnet50'),
    ('model.backbone.pretrained', True),
    ('model.neck.norm_cfg', dict(type='LoggerHook')),
    ('model.neck.norm_cfg', dict(type='IterBasedTrainLoop')),
    ('model.neck.x', 'https://example.org/x'),
    ('model.neck.x', '{{$HOME:x}}'),
    ('model.neck.x', '../x'),
    ('model.neck', dict(type='BertModel', name='bert-base-uncased')),
    ('model.text_encoder.arch', 'hf-hub:someone/tower'),
    ('model.text_encoder.token_ids', 'ids.json'),
    ('model.text_encoder.token_ids', dict(texts_file='names')),
    ('model.text_encoder.tokenizer', dict(path='/etc')),
    ('model.text_encoder.tokenizer', dict(path='a/../../etc')),
    ('model.text_encoder.tokenizer', dict(path='~/x')),
    ('model.text_encoder.tokenizer', dict(path='C:\\x')),
    ('model.vlm_backbone', dict(checkpoint='x.pth')),
    ('model.teacher', dict(checkpoint='x.pth')),
    ('model.data_preprocessor', COMMAND),
    ('model.test_cfg.rcnn.nms', dict(type="__import__('os').getcwd()")),
    ('model.rpn_head.anchor_generator.type', 'CameraMotionCompensation'),
    ('visualizer', COMMAND),
    ('visualizer.type', 'DITOViT'),
    ('visualizer.vis_backends', [dict(type='MLflowVisBackend')]),
    ('test_dataloader.dataset.pipeline.1', COMMAND),
    ('test_dataloader.dataset.pipeline.1.transforms.0', COMMAND),
    ('test_dataloader.dataset.pipeline.0.backend_args', dict(a=1)),
    ('test_dataloader.dataset.pipeline.1.type', 'LoadTextAnnotations'),
    ('test_dataloader.collate_fn', dict(type='mmengine.call_command')),
    ('test_dataloader.dataset.type', 'mmengine.load'),
    ('custom_hooks', [dict(type='CheckpointHook', out_dir='x')]),
    ('custom_hooks', [COMMAND]),
    ('custom_hooks', [dict(type='DITOVocabularyHook', x=['{{$HOME:x}}'])]),
    ('model', 'DITO'),
    ('visualizer', [dict(type='DetLocalVisualizer')]),
    ('model.neck.a b', 1),
    ('model.neck.{{ x }}', 1),
    ('default_scope', 'evil'),
    ('default_scope', 'mmengine'),
    ('default_hooks', dict(logger=dict(type='LoggerHook'))),
    ('env_cfg', {}),
    ('filename', 'x'),
    ('runner_type', 'evil'),
]


@pytest.mark.parametrize('key, value', BAD)
def test_key_and_value_of_what_is_refused(key: str, value: Any) -> None:
    config = _config()
    *parents, last = key.split('.')
    place: Any = config
    for parent in parents:
        place = place[int(parent) if isinstance(place, list) else parent]
    place[int(last) if isinstance(place, list) else last] = value
    with pytest.raises(ValueError) as error:
        check_config(config, 'x.pth')
    text = str(error.value)
    assert text.startswith('The config inside x.pth is refused: ')
    assert last in text and '=' in text
    assert text.endswith('if you trust where this one comes from.')
    assert text.isprintable() and len(text) < 300


@pytest.mark.parametrize(
    'neck',
    [
        {'\x1b[2Jneck': 1},
        {'neck': dict(type='\x1b[2J')},
        {'neck': dict(x='/\x1b[2J')},
    ],
)
def test_names_do_not_write_to_the_terminal(neck: dict[str, Any]) -> None:
    config = _config()
    config['model'].update(neck)
    with pytest.raises(ValueError, match=r'\\x1b\[2J') as error:
        check_config(config, 'x.pth')
    assert str(error.value).isprintable()


def test_endless_configs_are_refused() -> None:
    config = _config()
    config['model']['neck']['x'] = config['model']['neck']
    with pytest.raises(ValueError, match='nested too deep'):
        check_config(config, 'x.pth')


def test_nothing_is_imported_by_name_while_building(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'SomeSampler.py').write_text(
        "open('ran', 'w')\nclass SomeSampler: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ('SomeSampler', 'SomeSampler.SomeSampler'):
        with imports_by_name_refused():
            with pytest.raises(KeyError, match='is not in the'):
                MODELS.build(dict(type=name))
    assert not (tmp_path / 'ran').exists()
    assert MODELS.get('SomeSampler.SomeSampler').__name__ == 'SomeSampler'
    assert (tmp_path / 'ran').exists()
