# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Curves in TensorBoard and Weights & Biases, by config."""

import sys
import types
from pathlib import Path

import pytest
from mmengine.config import Config
from training_runs import train, training_cfg, write_symbols

BACKENDS = Config.fromfile(
    Path(__file__).parents[2] / 'configs/_base_/log_backends.py'
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('shards')
    return root, write_symbols(root, shards=4, number=12)


def cfg(data, folder, backends):
    return training_cfg(
        *data,
        folder,
        train_cfg__max_iters=3,
        custom_hooks=[],
        visualizer=dict(
            type='Visualizer',
            name=f'visualizer_{folder}',
            vis_backends=backends,
        ),
    )


class FakeWandb(types.ModuleType):
    """What mmengine's backend calls of wandb."""

    def __init__(self):
        super().__init__('wandb')
        self.calls, self.run = [], self
        self.config = self

    def init(self, **kwargs):
        self.calls.append(('init', kwargs))
        return self

    def log(self, values, **kwargs):
        self.calls.append(('log', values))

    def update(self, *args, **kwargs):
        self.calls.append(('config', args))

    def log_code(self, **kwargs):
        self.calls.append(('code', kwargs))

    def define_metric(self, *args, **kwargs):
        self.calls.append(('metric', args))

    def join(self):
        self.calls.append(('join', ()))


def test_wandb(tmp_path, data, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    train(cfg(data, tmp_path / 'run', BACKENDS.wandb_backends))
    init = dict(call for call in fake.calls if call[0] == 'init')['init']
    assert init['project'] == 'dito'
    logged = [values for kind, values in fake.calls if kind == 'log']
    losses = [v['loss'] for v in logged if 'loss' in v]
    assert len(losses) == 3
    assert any('images_per_second' in v for v in logged)
    assert list((tmp_path / 'run').glob('*/vis_data/scalars.json'))


def test_tensorboard(tmp_path, data):
    pytest.importorskip('tensorboard')
    train(cfg(data, tmp_path / 'run', BACKENDS.tensorboard_backends))
    files = list((tmp_path / 'run').rglob('events.out.tfevents*'))
    assert len(files) == 1 and b'images_per_second' in files[0].read_bytes()


@pytest.mark.parametrize(
    'backends,name',
    [('wandb_backends', 'wandb'), ('tensorboard_backends', 'tensorboard')],
)
def test_a_missing_package_is_named(
    tmp_path, data, monkeypatch, backends, name
):
    hidden = {
        'wandb': ['wandb'],
        'tensorboard': ['torch.utils.tensorboard', 'tensorboardX'],
    }
    for module in hidden[name]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f'install.*{name}'):
        train(cfg(data, tmp_path / 'run', BACKENDS[backends]))
