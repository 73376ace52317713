# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Averaged weights of the pretrainers."""

import copy

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, HOOKS, METRICS
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import FlexibleRunner
from training_runs import train, training_cfg, write_symbols

from dito.engine.hooks import DITOEMAHook, DITOZeroShotHook
from dito.models.text import Vocabulary
from dito.utils.checkpoint import load_from_file


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('shards')
    return root, write_symbols(root, shards=4, number=12)


@HOOKS.register_module()
class KeepWeights(Hook):
    """Keep the trained weights of each step, and those at validation."""

    priority = 'VERY_HIGH'
    steps = []

    def before_train(self, runner):
        self.steps.clear()
        self.steps.append(copy.deepcopy(runner.model.state_dict()))

    def after_train_iter(self, runner, *args, **kwargs):
        self.steps.append(copy.deepcopy(runner.model.state_dict()))


def average(steps, momentum):
    """A naive moving average; the first step is taken as it is."""
    result = {
        k: v.clone() for k, v in steps[0].items() if v.is_floating_point()
    }
    for state in steps[1:]:
        for name, value in state.items():
            if name not in result:
                continue
            result[name] = (1 - momentum) * result[name] + momentum * value
    return result


def test_a_checkpoint_holds_the_averages(tmp_path, data):
    config = training_cfg(
        *data,
        tmp_path / 'run',
        train_cfg__max_iters=5,
        custom_hooks=[
            dict(type='DITOEMAHook', momentum=0.3),
            dict(type='KeepWeights'),
        ],
    )
    train(config)
    checkpoint = load_from_file(str(tmp_path / 'run' / 'iter_5.pth'))
    # mmengine's average begins with the weights after the first step.
    wanted = average(KeepWeights.steps[1:], 0.3)
    for name, value in wanted.items():
        torch.testing.assert_close(checkpoint['state_dict'][name], value)
        trained = checkpoint['ema_state_dict'][f'module.{name}']
        assert torch.equal(trained, KeepWeights.steps[-1][name])


@HOOKS.register_module()
class LookAtNames(Hook):
    """Look at the text tower where class names are embedded."""

    seen = []

    def before_val_epoch(self, runner):
        encoder = runner.model.text_encoder
        self.seen.append(encoder.tower.text_projection.detach().clone())
        runner.model.set_vocabulary(
            Vocabulary.from_names(['star'], encoder, templates=['{}'])
        )


@DATASETS.register_module()
class OneImage(torch.utils.data.Dataset):
    """A black image."""

    metainfo = dict(classes=('star',))

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return dict(inputs=np.zeros((3, 16, 16), np.uint8), labels=0)


@METRICS.register_module()
class CountImages(BaseMetric):
    """Number of images."""

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(images=len(results))


def test_names_are_embedded_by_the_averaged_tower(tmp_path, data):
    """Even if the hook that embeds them comes first in the config."""
    order = ['VERY_HIGH', 'HIGH', 'ABOVE_NORMAL', 'NORMAL']
    assert order.index(DITOEMAHook.priority) < order.index(
        DITOZeroShotHook.priority
    )
    assert EMAHook.priority == 'NORMAL'
    config = training_cfg(
        *data,
        tmp_path / 'run',
        train_cfg__max_iters=3,
        custom_hooks=[
            dict(type='LookAtNames'),
            dict(type='DITOEMAHook', momentum=0.3),
        ],
    )
    config['train_cfg']['val_interval'] = 3
    config.update(
        val_dataloader=dict(
            config['train_dataloader'],
            dataset=dict(type='OneImage'),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        val_evaluator=dict(type='CountImages'),
        val_cfg=dict(type='ValLoop'),
    )
    LookAtNames.seen.clear()
    runner = train(config)
    state = load_from_file(str(tmp_path / 'run' / 'iter_3.pth'))
    name = 'text_encoder.tower.text_projection'
    assert torch.equal(LookAtNames.seen[0], state['state_dict'][name])
    assert torch.equal(
        runner.model.state_dict()[name],
        state['ema_state_dict'][f'module.{name}'],
    )


def test_resumes_under_the_flexible_runner(tmp_path, data):
    """It loads a checkpoint before it calls ``before_run``."""

    def run(folder, **changes):
        config = training_cfg(
            *data,
            tmp_path / folder,
            custom_hooks=[dict(type='DITOEMAHook', momentum=0.3)],
            **changes,
        )
        config['default_hooks']['checkpoint']['max_keep_ckpts'] = 9
        FlexibleRunner(**config).train()
        last = (tmp_path / folder / 'last_checkpoint').read_text()
        return load_from_file(last)

    straight = run('straight', train_cfg__max_iters=6)
    run('parts', train_cfg__max_iters=3)
    parts = run('parts', train_cfg__max_iters=6, resume=True)
    assert parts['meta']['iter'] == straight['meta']['iter'] == 6
    for part in ('state_dict', 'ema_state_dict'):
        for name, value in straight[part].items():
            assert torch.equal(value, parts[part][name]), name
