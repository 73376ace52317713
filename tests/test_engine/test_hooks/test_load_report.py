# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Report of what a checkpoint gives to a model."""

import itertools

import pytest
import torch
from mmdet.registry import HOOKS
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from dito.engine.hooks.load_report_hook import (
    DITOLoadReportHook,
    LoadReport,
    fit_pos_embed,
    group_of,
)
from dito.models.backbones.vit_layers import resize_pos_embed
from dito.models.text import DITOTextEncoder
from dito.utils.checkpoint import save_safetensors

_COUNT = itertools.count()


class _Backbone(nn.Module):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, 3))


class _Patches(nn.Module):
    def __init__(self, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 3, patch)


class _Toy(BaseModel):
    def __init__(self, tokens: int = 4, width: int = 2, ids=None) -> None:
        super().__init__()
        self.backbone = _Backbone(tokens)
        self.neck = nn.Linear(2, 2)
        self.roi_head = nn.ModuleDict(
            dict(bbox_head=nn.Linear(2, width), mask_head=nn.Linear(2, 2))
        )
        if ids is not None:
            self.text_encoder = DITOTextEncoder(
                dict(width=8, layers=1, heads=2), 4, token_ids=ids
            )

    def forward(self, inputs, mode='tensor'):
        if mode == 'predict':
            return [dict()]
        return dict(loss=self.neck(inputs.float()).square().mean())


class _Metric(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(1)

    def compute_metrics(self, results) -> dict:
        return dict(n=len(results))


def _runner(
    tmp_path, model=None, load_from=None, resume=False, **hook
) -> Runner:
    data = DataLoader([dict(inputs=torch.ones(2))])
    return Runner(
        model or _Toy(),
        str(tmp_path / 'run'),
        train_dataloader=data,
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        test_dataloader=data,
        test_cfg=dict(),
        test_evaluator=_Metric(),
        custom_hooks=[DITOLoadReportHook(**hook)],
        load_from=load_from,
        resume=resume,
        default_scope='mmdet',
        experiment_name=f'report{next(_COUNT)}',
    )


@pytest.fixture
def said(monkeypatch) -> list:
    """Texts of the runner's logger with their level."""
    texts = []
    monkeypatch.setattr(
        MMLogger,
        'callHandlers',
        lambda self, record: texts.append(
            (record.levelname, record.getMessage())
        ),
    )
    return texts


def _save(tmp_path, state, name='x.safetensors') -> str:
    save_safetensors(state, tmp_path / name)
    return str(tmp_path / name)


def _without(state, *prefixes) -> dict:
    return {k: v for k, v in state.items() if not k.startswith(prefixes)}


def _warnings(said) -> str:
    return '\n'.join(
        t for level, t in said if level == 'WARNING' and 'keys' in t
    )


# ------------------------------------------------------------- report


def test_report_sorts_keys() -> None:
    one, two = torch.zeros(1), torch.zeros(2)
    report = LoadReport.compare(
        dict(a=one, b=one, c=one), dict(a=one, b=two, d=one)
    )
    assert report.loaded == ['a'] and report.missing == ['c']
    assert report.unused == ['d'] and list(report.mismatched) == ['b']
    assert (
        '(2,) in the checkpoint, (1,) in the model' in (report.mismatched['b'])
    )


def test_groups_and_table() -> None:
    assert group_of('backbone.blocks.0.w') == 'backbone'
    assert group_of('roi_head.bbox_head.fc.w') == 'roi_head.bbox_head'
    assert group_of('roi_head.t') == 'roi_head'
    assert group_of('logit_scale') == 'logit_scale'
    report = LoadReport(['neck.a', 'neck.b'], ['neck.c'], ['x.y'], {})
    rows = [line.split() for line in report.table().splitlines()]
    assert rows == [
        ['group', 'loaded', 'resampled', 'missing', 'shape', 'unused'],
        ['neck', '2', '0', '1', '0', '0'],
        ['x', '0', '0', '0', '0', '1'],
    ]


# ----------------------------------------------------------- in a runner


def test_complete_checkpoint_is_loaded_without_a_warning(
    tmp_path, said
) -> None:
    source = _Toy()
    path = _save(tmp_path, source.state_dict())
    runner = _runner(tmp_path, load_from=path, required=['backbone', 'neck'])
    runner.train()
    assert runner.model.neck.weight.equal(source.neck.weight)
    assert any('roi_head.bbox_head' in t for _, t in said)
    assert _warnings(said) == ''


@pytest.mark.parametrize('lost', ['neck.', 'roi_head.bbox_head.weight'])
def test_missing_required_module_stops(tmp_path, lost) -> None:
    path = _save(tmp_path, _without(_Toy().state_dict(), lost))
    runner = _runner(
        tmp_path, load_from=path, required=['neck', 'roi_head.bbox_head']
    )
    with pytest.raises(ValueError, match=f'{lost}.*stage before'):
        runner.train()


def test_other_shape_of_a_required_module_stops(tmp_path) -> None:
    path = _save(tmp_path, _Toy(width=5).state_dict())
    runner = _runner(tmp_path, load_from=path, required=['roi_head.bbox_head'])
    with pytest.raises(ValueError, match=r'\(5, 2\) in the checkpoint'):
        runner.train()


def test_required_module_that_no_model_has_stops(tmp_path) -> None:
    path = _save(tmp_path, _Toy().state_dict())
    runner = _runner(tmp_path, load_from=path, required=['nack'])
    with pytest.raises(ValueError, match='not in it: nack'):
        runner.train()


def test_exception_within_a_required_module(tmp_path, said) -> None:
    path = _save(tmp_path, _without(_Toy().state_dict(), 'roi_head.mask'))
    runner = _runner(
        tmp_path,
        load_from=path,
        required=['roi_head'],
        allowed_missing=['roi_head.mask_head'],
    )
    runner.train()
    assert _warnings(said) == ''


def test_unforeseen_keys_are_warned_of(tmp_path, said) -> None:
    state = _without(_Toy(width=5).state_dict(), 'roi_head.mask')
    state.update({'old.a': torch.ones(1), 'logit_scale': torch.ones(1)})
    runner = _runner(
        tmp_path,
        load_from=_save(tmp_path, state),
        allowed_unused=['logit_scale'],
    )
    runner.train()
    text = _warnings(said)
    assert '2 keys not found in the checkpoint: roi_head.mask_head' in text
    assert '2 keys of another shape, not loaded: roi_head.bbox_head' in text
    assert '1 keys in the checkpoint but not used: old.a' in text


def test_checkpoint_of_another_model_stops(tmp_path) -> None:
    path = _save(tmp_path, {'visual.conv1': torch.ones(1)})
    runner = _runner(tmp_path, load_from=path)
    with pytest.raises(ValueError, match='visual.conv1.*clip-to-dito'):
        runner.train()


def test_test_needs_all_weights(tmp_path) -> None:
    path = _save(tmp_path, _without(_Toy().state_dict(), 'roi_head.mask'))
    allowed = dict(allowed_missing=['roi_head.mask_head'])
    with pytest.raises(ValueError, match='2 weights that the model must'):
        _runner(tmp_path, load_from=path, **allowed).test()
    runner = _runner(
        tmp_path,
        load_from=path,
        test_allowed_missing=['roi_head.mask_head'],
        **allowed,
    )
    assert runner.test() == dict(n=1)


def test_resume_is_left_alone(tmp_path, said) -> None:
    first = _runner(tmp_path)
    first.train()
    first.save_checkpoint(str(tmp_path), 'saved.pth', by_epoch=False)
    runner = _runner(
        tmp_path,
        load_from=str(tmp_path / 'saved.pth'),
        resume=True,
        required=['nack'],
    )
    runner.train()
    assert runner._has_loaded
    assert not any('Weights by module' in t for _, t in said)


def test_start_without_a_checkpoint_is_warned_of(tmp_path, said) -> None:
    _runner(tmp_path, required=['backbone']).train()
    assert any('weights start at random' in t for _, t in said)


# ------------------------------------------------------------- fitting


def test_pos_embed_of_another_grid_is_resized(tmp_path, said) -> None:
    source = _Toy(tokens=4)
    state = {f'module.{k}': v for k, v in source.state_dict().items()}
    model = _Toy(tokens=9)
    runner = _runner(
        tmp_path,
        model,
        load_from=_save(tmp_path, state),
        required=['backbone'],
    )
    runner.train()
    want = resize_pos_embed(
        source.backbone.pos_embed.detach().view(1, 2, 2, 3), (3, 3)
    )
    torch.testing.assert_close(
        model.backbone.pos_embed.detach(), want.view(1, 9, 3)
    )
    assert any(
        'Resampled to the model: backbone.pos_embed from 2 x 2 to '
        '3 x 3 positions' in text
        for _, text in said
    )
    assert any(
        line.split()[:3] == ['backbone', '1', '1']
        for _, text in said
        for line in text.splitlines()
    )


def test_another_patch_size_is_one_sentence(tmp_path) -> None:
    source, model = _Toy(), _Toy()
    source.backbone.patch_embed = _Patches(14)
    model.backbone.patch_embed = _Patches(16)
    runner = _runner(
        tmp_path,
        model,
        load_from=_save(tmp_path, source.state_dict()),
        required=['backbone'],
    )
    with pytest.raises(ValueError) as caught:
        runner.train()
    assert str(caught.value) == (
        'backbone.patch_embed.proj.weight is for patches of 14 x 14 pixels '
        'in the checkpoint and of 16 x 16 in the model: set patch_size=14, '
        'or convert the tower with dito clip-to-dito '
        '--patch-size 16.'
    )


@pytest.mark.parametrize('required', [['backbone'], []])
def test_a_grid_that_is_not_square_is_one_sentence(
    tmp_path, said, required
) -> None:
    runner = _runner(
        tmp_path,
        _Toy(tokens=4),
        load_from=_save(tmp_path, _Toy(tokens=5).state_dict()),
        required=required,
    )
    text = 'backbone.pos_embed has 5 positions in the checkpoint and 4 in'
    if required:
        with pytest.raises(ValueError, match=text):
            runner.train()
    else:
        runner.train()
        assert f'1 keys of another shape, not loaded: {text}' in (
            _warnings(said)
        )


@pytest.mark.parametrize('shape', [(1, 5, 3), (1, 4, 8), (4, 3)])
def test_pos_embed_that_is_no_grid_is_left(shape) -> None:
    value = torch.ones(shape)
    assert fit_pos_embed(value, torch.ones(1, 9, 3)) is value


def test_token_table_is_cut_before_the_report(tmp_path, said) -> None:
    ids = DITOTextEncoder.collect_token_ids(['cat', 'dog'])
    source = _Toy(ids=ids)
    model = _Toy(ids=DITOTextEncoder.collect_token_ids(['dog']))
    runner = _runner(
        tmp_path,
        model,
        load_from=_save(tmp_path, source.state_dict()),
        required=['text_encoder'],
    )
    runner.train()
    assert _warnings(said) == ''
    torch.testing.assert_close(
        model.text_encoder.encode(['dog']), source.text_encoder.encode(['dog'])
    )


def test_registered() -> None:
    hook = HOOKS.build(dict(type='DITOLoadReportHook', required=['neck']))
    assert hook.required == ('neck',)
