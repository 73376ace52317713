# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Checkpoints that appear whole or not at all."""

import os
import signal

import mmengine.runner.checkpoint as mmengine_checkpoint
import pytest
import torch
from mmdet.registry import HOOKS
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from training_runs import Forked, records, train, training_cfg, write_symbols

from dito.engine import work_folder as run_lock
from dito.engine.hooks.non_finite_guard_hook import (
    NonFiniteError,
    non_finite_weights,
)
from dito.engine.work_folder import fault_of
from dito.utils.checkpoint import load_from_file


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('shards')
    return root, write_symbols(root, shards=4, number=12)


def cfg(data, folder, iters=9, **changes):
    return training_cfg(
        *data,
        folder,
        train_cfg__max_iters=iters,
        custom_hooks=[],
        train_cfg__micro_batch=None,
        **changes,
    )


@pytest.fixture(scope='module')
def first_steps(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp('first') / 'run'
    train(cfg(data, folder, iters=3))
    return lambda f: cfg(data, f, iters=4), folder / 'iter_3.pth'


def names(folder):
    # A run that failed has its lock as long as its process lives.
    return sorted(
        p.name
        for p in folder.iterdir()
        if p.is_file() and p.suffix != '.py' and p.name != run_lock.RUNNING
    )


def last(folder):
    return os.path.basename((folder / 'last_checkpoint').read_text())


def test_the_newest_two_are_kept_whole(tmp_path, data):
    train(cfg(data, tmp_path / 'run'))
    assert names(tmp_path / 'run') == [
        'iter_6.pth',
        'iter_9.pth',
        'last_checkpoint',
    ]
    assert last(tmp_path / 'run') == 'iter_9.pth'
    for name in ('iter_6.pth', 'iter_9.pth'):
        path = tmp_path / 'run' / name
        assert fault_of(path) is None
        hub = load_from_file(str(path))['message_hub']['runtime_info']
        assert hub['last_ckpt'] == str(path)
    assert hub['keep_ckpt_ids'] == [6, 9]


def put_half_and_die(self, obj, filepath):
    """Write half of the second checkpoint, then lose power."""
    half = 'iter_6' in str(filepath)
    with open(filepath, 'wb') as file:
        file.write(obj[: len(obj) // 2] if half else obj)
    if half:
        os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(config):
    LocalBackend.put = put_half_and_die
    train(config)


def test_killed_while_writing(tmp_path, data):
    folder = tmp_path / 'run'
    run = Forked(train_and_die, cfg(data, folder), folder=tmp_path)
    run.wait()
    assert run.processes[0].exitcode == -9
    assert names(folder) == [
        '.iter_6.pth.tmp',
        'iter_3.pth',
        'last_checkpoint',
    ]
    assert last(folder) == 'iter_3.pth'
    train(cfg(data, folder, resume=True))
    assert names(folder) == ['iter_6.pth', 'iter_9.pth', 'last_checkpoint']
    seen = [r['iter'] for r in records(f'{folder}.jsonl')]
    assert seen == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8]


def test_a_failing_write_leaves_the_one_before(tmp_path, data, monkeypatch):
    save = mmengine_checkpoint.torch.save

    def fail(checkpoint, file):
        save(checkpoint, file)
        if checkpoint['meta']['iter'] == 6:
            raise OSError('no space left on device')

    monkeypatch.setattr(mmengine_checkpoint.torch, 'save', fail)
    with pytest.raises(OSError, match='no space'):
        train(cfg(data, tmp_path / 'run'))
    assert names(tmp_path / 'run') == ['iter_3.pth', 'last_checkpoint']
    assert last(tmp_path / 'run') == 'iter_3.pth'


def test_a_damaged_last_one_is_not_resumed(tmp_path, data):
    folder = tmp_path / 'run'
    straight = train(cfg(data, tmp_path / 'straight')).model.state_dict()
    train(cfg(data, folder, iters=6))
    path = folder / 'iter_6.pth'
    path.write_bytes(path.read_bytes()[:-300])
    runner = train(cfg(data, folder, resume=True))
    resumed = runner.model.state_dict()
    assert all(torch.equal(v, resumed[k]) for k, v in straight.items())
    log = next(folder.glob(f'{runner.timestamp}/*.log')).read_text()
    (line,) = (x for x in log.splitlines() if 'DAMAGED CHECKPOINT' in x)
    assert str(path) in line and str(folder / 'iter_3.pth') in line
    for path in folder.glob('iter_*.pth'):
        path.write_bytes(b'')
    with pytest.raises(ValueError, match='no whole checkpoint'):
        train(cfg(data, folder, resume=True))


def _wide(checkpoint):
    checkpoint['state_dict']['backbone.norm.bias'] = torch.ones(3)


def _group(checkpoint):
    checkpoint['optimizer']['param_groups'][0]['params'].pop()


def _momentum(checkpoint):
    for group in checkpoint['optimizer']['param_groups']:
        group['momentum'] = group.pop('betas')[0]


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda c: c.pop('meta'),
            'holds weights, not the state of a training',
        ),
        (
            lambda c: c['meta'].pop('iter'),
            'start from them .*load_from=.*x.pth',
        ),
        (lambda c: c.update(message_hub=3), 'holds weights'),
        (lambda c: c.pop('state_dict'), 'it has no weights'),
        (lambda c: c.update(optimizer=[1]), 'its optimizer is a list'),
        (
            lambda c: c['state_dict'].pop('backbone.norm.bias'),
            r'another model, 1 weights .*backbone.norm.bias \(16,\)',
        ),
        (_wide, r'backbone.norm.bias \(16,\), there \(3,\)'),
        (_group, 'its optimizer is another or has other groups'),
        (_momentum, 'its optimizer is another'),
    ],
)
def test_what_is_no_training_of_the_model_is_not_resumed(
    tmp_path, first_steps, change, message
):
    config, path = first_steps
    checkpoint = load_from_file(str(path))
    change(checkpoint)
    torch.save(checkpoint, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=f'x.pth cannot .*{message}'):
        train(
            dict(
                config(tmp_path / 'run'),
                resume=True,
                load_from=str(tmp_path / 'x.pth'),
            )
        )


def test_resumed_without_the_optimizer_is_said(tmp_path, first_steps):
    config, path = first_steps
    checkpoint = load_from_file(str(path))
    del checkpoint['optimizer'], checkpoint['param_schedulers']
    torch.save(checkpoint, tmp_path / 'x.pth')
    runner = train(
        dict(
            config(tmp_path / 'run'),
            resume=True,
            load_from=str(tmp_path / 'x.pth'),
        )
    )
    log = next((tmp_path / 'run').glob(f'{runner.timestamp}/*.log'))
    for part in 'optimizer', 'param_schedulers':
        assert f'without the state of the {part}' in log.read_text()


@HOOKS.register_module()
class PoisonWeights(Hook):
    """Make a weight NaN after an iteration."""

    priority = 'LOW'

    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.at:
            runner.model.backbone.norm.bias.data[3] = float('nan')


def test_weights_that_are_not_finite_are_not_saved(tmp_path, data):
    config = cfg(
        data,
        tmp_path / 'run',
        default_hooks__poison=dict(type='PoisonWeights', at=6),
    )
    with pytest.raises(NonFiniteError) as error:
        train(config)
    assert 'backbone.norm.bias' in str(error.value)
    assert 'step 6' in str(error.value)
    assert 'iter_3.pth' in str(error.value)
    assert names(tmp_path / 'run') == ['iter_3.pth', 'last_checkpoint']


def test_non_finite_weights_are_named():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert non_finite_weights(model) == []
    model[1].weight.data[0, 1] = float('inf')
    assert non_finite_weights(model) == ['1.weight']


def test_one_kept_checkpoint_is_warned_of(tmp_path, data):
    config = cfg(data, tmp_path / 'run', iters=1)
    config['default_hooks']['checkpoint']['max_keep_ckpts'] = 1
    runner = train(config)
    log = next((tmp_path / 'run').glob(f'{runner.timestamp}/*.log'))
    assert 'keeps no checkpoint to fall back to' in log.read_text()
