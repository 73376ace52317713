# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""How a batch is shared out, and which numbers of processes are refused."""

import re

import pytest
from mmengine.config import Config

from dito.cli.train import check_loop, set_auto_scale_lr, set_batch, set_total
from dito.engine.loops.whole_batch import (
    ACCUMULATED,
    MICRO_BATCHES,
    plan_batch,
    plan_of_config,
)


@pytest.mark.parametrize(
    'processes,largest,line',
    [
        (8, 4, 'batch 128 = 8 processes x 4 images x 4 accumulated'),
        (32, 4, 'batch 128 = 32 processes x 4 images'),
        (1, 4, 'batch 128 = 1 process x 4 images x 32 accumulated'),
        # A device takes fewer than it could where that does not divide.
        (64, 4, 'batch 128 = 64 processes x 2 images'),
        (8, 5, 'batch 128 = 8 processes x 4 images x 4 accumulated'),
        (128, 4, 'batch 128 = 128 processes x 1 image'),
        (1, 500, 'batch 128 = 1 process x 128 images'),
    ],
)
def test_line(processes, largest, line):
    plan = plan_batch(128, processes, largest)
    assert str(plan) == line
    assert plan.processes * plan.images * plan.pieces == 128


def test_micro_batches_are_named():
    assert str(plan_batch(16384, 8, 256, MICRO_BATCHES)) == (
        'batch 16384 = 8 processes x 256 images x 8 micro-batches'
    )


def test_micro_batches_need_not_divide():
    """They share one loss: nothing depends on where a share is cut."""
    plan = plan_batch(17, 1, 4, MICRO_BATCHES)
    assert str(plan) == (
        'batch 17 = 1 process x 17 images in 5 micro-batches of at most 4'
    )
    assert str(plan_batch(16384, 128, 256, MICRO_BATCHES)) == (
        'batch 16384 = 128 processes x 128 images'
    )


@pytest.mark.parametrize('processes', [3, 5, 7, 100, 256])
def test_refused_in_a_sentence(processes):
    with pytest.raises(ValueError) as caught:
        plan_batch(128, processes, 4)
    text = str(caught.value)
    assert text.startswith(f'{processes} processes cannot share the batch')
    assert 'one of 1, 2, 4, 8, 16, 32, 64, 128 processes' in text


@pytest.mark.parametrize(
    'total,largest',
    [(0, 4), (-8, 4), (2.5, 4), ('128', 4), (True, 4), (8, 0), (8, None)],
)
def test_values_that_are_no_batch(total, largest):
    with pytest.raises(ValueError, match='whole number'):
        plan_batch(total, 1, largest)


def config(**train_cfg):
    return Config(
        dict(
            train_cfg=dict(dict(type='DITOTrainLoop'), **train_cfg),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.02)),
            train_dataloader=dict(batch_size=4),
        )
    )


@pytest.mark.parametrize(
    'launcher,size',
    [
        ('pytorch', 'WORLD_SIZE'),
        ('slurm', 'SLURM_NTASKS'),
        ('mpi', 'OMPI_COMM_WORLD_SIZE'),
    ],
)
def test_processes_are_counted_before_they_meet(monkeypatch, launcher, size):
    monkeypatch.setenv(size, '16')
    plan = plan_of_config(config(total_batch_size=128), launcher)
    assert (plan.processes, plan.pieces) == (16, 2)
    # Of a job that holds more than this one process.
    assert plan_of_config(config(total_batch_size=128), 'none').processes == 1
    assert plan_of_config(config(), launcher) is None


def test_another_batch_by_the_learning_rate(monkeypatch):
    """--auto-scale-lr leaves the batch to the processes, any number."""
    monkeypatch.setenv('WORLD_SIZE', '3')
    cfg = config(total_batch_size=128)
    set_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr == dict(base_batch_size=128, enable=True)
    set_batch(cfg, 'pytorch')
    assert cfg.optim_wrapper.optimizer.lr == 0.02  # MMEngine scales


def test_another_batch_of_the_schedule(monkeypatch):
    """--cfg-options train_cfg.total_batch_size=96 --auto-scale-lr."""
    cfg = config(total_batch_size=96)
    cfg.auto_scale_lr = dict(base_batch_size=128, enable=False)
    set_auto_scale_lr(cfg)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.015)
    # The batch is fixed on any number of processes, and nothing scales twice.
    assert not cfg.auto_scale_lr.enable
    monkeypatch.setenv('WORLD_SIZE', '3')
    assert plan_of_config(cfg, 'pytorch').total == 96
    monkeypatch.setenv('WORLD_SIZE', '5')
    with pytest.raises(ValueError, match='5 processes cannot share'):
        set_batch(cfg, 'pytorch')


def test_the_batch_recommended_instead_is_one_that_works(monkeypatch):
    """Also to who gave --auto-scale-lr with a batch that does not divide."""
    cfg = config(total_batch_size=8)
    cfg.auto_scale_lr = dict(base_batch_size=128, enable=False)
    set_auto_scale_lr(cfg)
    monkeypatch.setenv('WORLD_SIZE', '3')
    with pytest.raises(ValueError) as caught:
        set_batch(cfg, 'pytorch')
    text = str(caught.value)
    assert 'one of 1, 2, 4, 8 processes, or choose a batch' in text
    found = re.search(r'train_cfg\.total_batch_size=(\d+) and --auto', text)
    cfg.train_cfg.total_batch_size = int(found[1])
    assert plan_of_config(cfg, 'pytorch') == (12, 3, 4, 1, ACCUMULATED)


def test_other_ways_to_write_it():
    cfg = config(type='IterBasedTrainLoop', total_batch_size=8)
    set_batch(cfg, 'none')
    assert cfg.train_cfg.type == 'DITOTrainLoop'
    cfg.total_batch_size = 16
    set_total(cfg)
    set_batch(cfg, 'none')
    assert cfg.train_cfg.total_batch_size == 16
    assert 'total_batch_size' not in cfg
    # Configs that leave the batch to the machine are as they were.
    own = config(type='IterBasedTrainLoop', total_batch_size=None)
    set_batch(own, 'none')
    assert own.train_cfg == dict(type='IterBasedTrainLoop')


def test_loops_that_cannot_train_the_data():
    cfg = config(type='EpochBasedTrainLoop', max_epochs=3)
    check_loop(cfg)
    cfg.train_cfg.total_batch_size = 8
    with pytest.raises(ValueError, match='inherits total_batch_size, which'):
        check_loop(cfg)
    for kind in ('EpochBasedTrainLoop', 'mmengine.IterBasedTrainLoop'):
        cfg = config(type=kind, max_epochs=3)
        cfg.train_dataloader.dataset = dict(type='ImageTextShards')
        with pytest.raises(ValueError, match='cannot train the pairs of'):
            check_loop(cfg)
    check_loop(config(type='ImageTextTrainLoop', max_iters=3))
