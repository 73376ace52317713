# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A run stops at the first loss that is not finite."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import HOOKS, MODELS
from mmdet.structures import DetDataSample
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from training_runs import Forked, records, train, training_cfg, write_symbols

from dito.engine.hooks import DITONonFiniteGuardHook
from dito.engine.hooks.non_finite_guard_hook import (
    NonFiniteError,
    non_finite,
    sample_names,
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('shards')
    return root, write_symbols(root, shards=4, number=12)


@HOOKS.register_module()
class PoisonStep(Hook):
    """Make the temperature of a rank NaN before an iteration."""

    def __init__(self, at, rank=0):
        self.at, self.rank = at, rank

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.at and get_rank() == self.rank:
            model = getattr(runner.model, 'module', runner.model)
            model.logit_scale.data.fill_(math.nan)


@MODELS.register_module()
class RankLosses(BaseModel):
    """A model that, unlike ours, logs the losses of its own rank."""

    def __init__(self):
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(1.0))
        self.backbone = torch.nn.Linear(1, 1)

    def forward(self, inputs, texts=None, keys=None, place=None, mode=None):
        x = self.backbone(inputs.float().mean().view(1, 1) / 255)
        return dict(loss_a=x.sum() ** 2, loss_b=self.logit_scale.square())

    def clamp_logit_scale(self):
        pass


def cfg(data, folder, **changes):
    changes.setdefault('custom_hooks', [])
    return training_cfg(*data, folder, train_cfg__micro_batch=None, **changes)


@pytest.mark.parametrize('micro_batch', [None, 4])
def test_the_step_the_term_and_the_batch_are_named(
    tmp_path, data, micro_batch
):
    folder = tmp_path / 'run'
    config = cfg(data, folder, custom_hooks=[dict(type='PoisonStep', at=5)])
    config['train_cfg']['micro_batch'] = micro_batch
    with pytest.raises(NonFiniteError) as error:
        train(config)
    text = str(error.value)
    assert 'Step 5:' in text and 'loss_image is nan' in text
    assert 'on rank 0' in text and '--resume' in text
    report = json.loads((folder / 'non_finite_iter_5.json').read_text())
    (part,) = report['ranks']
    assert report['step'] == 5 and part['rank'] == 0
    assert len(part['samples']) == 6
    assert all(key in text for key in part['samples'])
    straight = cfg(data, tmp_path / 'other', train_cfg__max_iters=5)
    train(straight)
    keys = records(tmp_path / 'other.jsonl')[4]['keys']
    assert part['samples'] == keys
    saved = sorted(p.name for p in folder.glob('*.pth'))
    assert saved == ['iter_3.pth']
    assert (folder / 'last_checkpoint').read_text().endswith('iter_3.pth')


@pytest.mark.parametrize('model', ['ours', 'other'])
def test_one_rank_stops_all(tmp_path, data, model):
    changes = dict(
        launcher='pytorch',
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None
            )
        ),
        optim_wrapper__clip_grad=None,
    )
    if model == 'other':
        changes['model'] = dict(type='RankLosses')
    config = cfg(data, tmp_path / 'run', **changes)
    config['custom_hooks'] = [dict(type='PoisonStep', at=5, rank=1)]
    errors = Forked(train, config, ranks=2, folder=tmp_path).wait()
    report = json.loads(
        (tmp_path / 'run' / 'non_finite_iter_5.json').read_text()
    )
    term = 'loss_b' if model == 'other' else 'loss_image'
    for error in errors:
        assert 'NonFiniteError: Step 5' in error
        assert f'{term} is nan' in error and 'on rank 1' in error
    bad = {part['rank']: part for part in report['ranks']}
    own = records(tmp_path / 'run.jsonl', rank=0)
    assert [r['iter'] for r in own] == [0, 1, 2, 3]
    if model == 'other':
        assert list(bad) == [1] and set(bad[1]['terms']) == {'loss_b', 'loss'}
    assert not set(bad[1]['samples']) & set(own[3]['keys'])
    assert sorted(p.name for p in (tmp_path / 'run').glob('*.pth')) == [
        'iter_3.pth'
    ]


def call(hook, tmp_path, outputs, batch, **scalars):
    hub = MessageHub(f'guard_{tmp_path.name}')
    for name, value in scalars.items():
        hub.update_scalar(f'train/{name}', value)
    runner = SimpleNamespace(
        model=torch.nn.Linear(1, 1),
        iter=41,
        message_hub=hub,
        work_dir=str(tmp_path),
    )
    hook.after_train_iter(runner, 41, batch, outputs)


def test_a_detection_batch_is_named_by_its_images(tmp_path):
    samples = [
        DetDataSample(metainfo=dict(img_path=f'{i}.jpg')) for i in range(10)
    ]
    batch = dict(inputs=[], data_samples=samples)
    fine = dict(
        loss=torch.tensor(1.0),
        loss_rpn_cls=torch.tensor(2.0),
        acc=torch.tensor(math.nan),
    )
    hook = DITONonFiniteGuardHook()
    call(hook, tmp_path, fine, batch, grad_norm=3.0)
    with pytest.raises(NonFiniteError) as error:
        call(
            hook, tmp_path, dict(fine, loss_mask=torch.tensor(math.inf)), batch
        )
    assert 'Step 42: loss_mask is inf on rank 0' in str(error.value)
    assert '0.jpg, 1.jpg' in str(error.value)
    assert 'and 2 more' in str(error.value)
    with pytest.raises(NonFiniteError, match='grad_norm is nan'):
        call(hook, tmp_path, fine, batch, grad_norm=math.nan)


def test_sample_names():
    assert sample_names(dict(keys=['a', 'b'])) == ['a', 'b']
    sample = DetDataSample(metainfo=dict(img_id=7))
    assert sample_names(dict(data_samples=[sample])) == ['7']
    assert sample_names(dict(inputs=[])) == sample_names([1, 2]) == []


def test_non_finite_values():
    values = dict(
        a=torch.tensor(1.0),
        b=torch.tensor([math.nan])[0],
        c=2.0,
        d=-math.inf,
        e=torch.tensor(math.inf, dtype=torch.bfloat16),
    )
    assert set(non_finite(values)) == {'b', 'd', 'e'}
    assert non_finite({}) == {}
