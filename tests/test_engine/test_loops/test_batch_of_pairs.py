# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Stages 1 and 2 train one batch on 1, 2 and 4 processes, also resumed."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.runner import Runner
from training_runs import Forked, records, training_cfg, write_symbols

from dito.engine import DITOFlexibleRunner
from dito.engine.loops import pair_loading
from dito.utils.checkpoint import load_from_file
from dito.utils.configs import find_config

STEPS, TOTAL = 4, 16
DDP = dict(type='MMDistributedDataParallel', device_ids=None)


def stage_one(root, captions, name):
    """A device embeds three pairs at a time."""
    cfg = training_cfg(
        root,
        captions,
        root / name,
        custom_hooks=[],
        train_cfg__micro_batch=None,
        train_cfg__total_batch_size=TOTAL,
        train_dataloader__batch_size=3,
        optim_wrapper__optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
    )
    cfg['default_hooks']['checkpoint'].update(interval=2, max_keep_ckpts=5)
    return Config(cfg)


def stage_two(root, captions, name):
    """The shipped config, smaller, and with the mean over boxes.

    Boxes of untrained heads have all but one embedding: which of them is the
    maximum is a matter of rounding, and the gradient follows it.
    """
    cfg = Config.fromfile(find_config('rep_symbols'))
    cfg.merge_from_dict(
        dict(
            work_dir=str(root / name),
            experiment_name=f'{root.name}_{name}',
            train_dataloader=dict(
                batch_size=3,
                num_workers=0,
                persistent_workers=False,
                dataset=dict(shards=str(root / '{00..03}.tar'), num_streams=4),
            ),
            train_cfg=dict(total_batch_size=TOTAL),
            model=dict(regions=dict(num_regions=(4, 2, 1, 1)), pooling='mean'),
            optim_wrapper=dict(
                optimizer=dict(
                    _delete_=True, type='SGD', lr=0.01, weight_decay=1e-4
                )
            ),
            default_hooks=dict(
                checkpoint=dict(interval=2, max_keep_ckpts=5),
                record=dict(
                    type='RunRecorder', path=str(root / f'{name}.jsonl')
                ),
            ),
        )
    )
    for key in (
        'val_dataloader',
        'val_evaluator',
        'val_cfg',
        'test_dataloader',
        'test_evaluator',
        'test_cfg',
    ):
        cfg[key] = None
    return cfg


def in_turns(root, captions, name):
    """Two workers, each of which makes 4 of the 16 pairs at a time."""
    cfg = stage_one(root, captions, name)
    cfg.merge_from_dict(
        dict(
            turn=4,
            train_dataloader=dict(num_workers=2, dataset=dict(num_streams=8)),
        )
    )
    return cfg


STAGES = dict(one=stage_one, two=stage_two, turns=in_turns)


def train(cfg, max_iters=STEPS, resume=False, sharded=False):
    torch.set_num_threads(1)
    if 'turn' in cfg:
        pair_loading._TURN, pair_loading._PROCESSES = cfg.pop('turn'), 4
    cfg.resume = resume
    cfg.load_from = None if resume else cfg.get('load_from')
    cfg.train_cfg.update(max_iters=max_iters, val_interval=100)
    if get_world_size() > 1:
        cfg.launcher = 'pytorch'
    if sharded:
        cfg.strategy, cfg.env_cfg = dict(type='DITOFSDPStrategy'), dict()
        DITOFlexibleRunner.from_cfg(cfg).train()
        return
    if get_world_size() > 1:
        cfg.model_wrapper_cfg = DDP
    Runner.from_cfg(cfg).train()


def losses(root, name, ranks):
    """Logged values of each step, and the pairs of all processes in order."""
    steps = []
    for lines in zip(
        *(records(root / f'{name}.jsonl', rank) for rank in range(ranks)),
        strict=True,
    ):
        keys = [
            key
            for row in zip(*(line.pop('keys') for line in lines), strict=True)
            for key in row
        ]
        values = {
            k: float.fromhex(v)
            for k, v in lines[0].items()
            if k.startswith(('loss', 'recall'))
        }
        steps.append((keys, values))
    return steps


def assert_same(root, stage, name, ranks, first=0):
    expected = losses(root, f'{stage}_straight', 1)[first:]
    found = losses(root, name, ranks)
    assert len(found) == len(expected) == STEPS - first
    for (keys, values), (other_keys, others) in zip(
        expected, found, strict=True
    ):
        assert len(keys) == TOTAL and other_keys == keys
        assert others == pytest.approx(values, rel=1e-4, abs=1e-6)
    one, other = (
        load_from_file(str(root / run / f'iter_{STEPS}.pth'))['state_dict']
        for run in (f'{stage}_straight', name)
    )
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(
            other[key],
            value,
            rtol=1e-4,
            atol=1e-5,
            msg=lambda text, key=key: f'{key}: {text}',
        )


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> tuple:
    """Shards, and the run of each stage in one process."""
    root = tmp_path_factory.mktemp('pairs')
    captions = write_symbols(root, number=18)
    for stage, config in STAGES.items():
        Forked(
            train, config(root, captions, f'{stage}_straight'), folder=root
        ).join()
    return root, captions


def test_a_step_is_the_whole_batch(data: tuple) -> None:
    for stage in STAGES:
        steps = losses(data[0], f'{stage}_straight', 1)
        assert [len(set(keys)) for keys, _ in steps] == [TOTAL] * STEPS
        log = next(Path(data[0] / f'{stage}_straight').glob('*/*.log'))
        assert (
            'batch 16 = 1 process x 16 images in 6 micro-batches of at '
            'most 3' in log.read_text()
        )


@pytest.mark.parametrize(
    'stage,ranks',
    [
        ('one', 2),
        ('one', 4),
        ('two', 2),
        ('two', 4),
        ('turns', 2),
        ('turns', 4),
    ],
)
def test_any_number_of_processes(data: tuple, stage: str, ranks: int) -> None:
    name = f'{stage}_{ranks}'
    Forked(
        train, STAGES[stage](*data, name), ranks=ranks, folder=data[0]
    ).join()
    assert_same(data[0], stage, name, ranks)


@pytest.mark.parametrize(
    'stage,ranks',
    [
        ('one', 1),
        ('one', 4),
        ('two', 1),
        ('two', 4),
        ('turns', 1),
        ('turns', 4),
    ],
)
def test_resumed_on_another_number(
    data: tuple, stage: str, ranks: int
) -> None:
    root, name = data[0], f'{stage}_resumed_{ranks}'
    before = Forked(
        train, STAGES[stage](*data, name), 2, ranks=2, folder=root
    ).join()
    for rank in range(len(before.processes)):
        (root / f'{name}.jsonl.{rank}').unlink()
    Forked(
        train,
        STAGES[stage](*data, name),
        resume=True,
        ranks=ranks,
        folder=root,
    ).join()
    assert_same(root, stage, name, ranks, first=2)


def test_sharded(data: tuple) -> None:
    Forked(
        train,
        stage_one(*data, 'sharded'),
        sharded=True,
        ranks=2,
        folder=data[0],
    ).join()
    assert_same(data[0], 'one', 'sharded', 2)
