# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A run in two processes is the run of one with the double batch."""

import pytest
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.runner import Runner
from pretrain_files import clip_model, runner_cfg, write_data
from training_runs import Forked, records, write_symbols

from dito.utils.configs import find_config

DDP = dict(type='MMDistributedDataParallel', device_ids=None)


def train(root, name, batch_size, **kwargs):
    """Weights at the end, and how many broken samples were counted."""
    cfg = runner_cfg(
        root,
        root / name,
        clip_model(),
        max_iters=6,
        batch_size=batch_size,
        optimizer='SGD',
        lr=0.1,
        **kwargs,
    )
    cfg['train_dataloader']['dataset']['max_broken_share'] = 0.5
    runner = Runner(**cfg)
    runner.train()
    model = runner.model
    skipped = runner.message_hub.get_scalar('train/skipped_samples')
    return (
        getattr(model, 'module', model).state_dict(),
        skipped._log_history.tolist(),
    )


def train_and_resume(root):
    kwargs = dict(launcher='pytorch', cfg=dict(model_wrapper_cfg=DDP))
    results = [
        train(root, 'two', 5, **kwargs),
        train(
            root,
            'resumed',
            5,
            resume=True,
            load_from=str(root / 'two' / 'iter_3.pth'),
            **kwargs,
        ),
    ]
    torch.save(results, root / f'{get_rank()}.pt')


def test_two_processes_train_as_one(tmp_path):
    write_data(tmp_path, broken=3)
    one, skipped = train(tmp_path, 'one', 10)
    # Of all processes, since the beginning of the run.
    assert skipped == sorted(skipped) and 3 < skipped[-1] < 4 * 2 * 3
    Forked(train_and_resume, tmp_path, ranks=2, folder=tmp_path).join()
    for rank in (0, 1):
        for state, counts in torch.load(tmp_path / f'{rank}.pt'):
            assert counts == skipped
            for name, value in one.items():
                torch.testing.assert_close(
                    state[name], value, rtol=1e-4, atol=1e-5, msg=name
                )


def train_symbols(root, name, batch_size, total=6, **options):
    """Three iterations of configs/symbols/rep_symbols.py and its test."""
    cfg = Config.fromfile(find_config('rep_symbols'))
    loader = dict(
        batch_size=batch_size, num_workers=0, persistent_workers=False
    )
    cfg.merge_from_dict(
        dict(
            work_dir=str(root / name),
            experiment_name=name,
            train_dataloader=dict(
                **loader, dataset=dict(shards=str(root / '{00..02}.tar'))
            ),
            val_dataloader=dict(dataset=dict(shards=str(root / '03.tar'))),
            train_cfg=dict(
                max_iters=3, val_interval=3, total_batch_size=total
            ),
            model=dict(regions=dict(num_regions=(4, 2, 1, 1))),
            default_hooks=dict(
                record=dict(
                    type='RunRecorder', path=str(root / f'{name}.jsonl')
                )
            ),
            **options,
        )
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    hub = runner.message_hub.log_scalars
    metrics = {
        k: float(v.current()) for k, v in hub.items() if 'retrieval' in k
    }
    torch.save(metrics, root / f'{name}_metrics.pt')


def test_stage_two_of_symbols_in_two_processes(tmp_path):
    """The shipped config logs what one process with the batch of both does."""
    write_symbols(tmp_path, number=8)
    train_symbols(tmp_path, 'one', 6)
    Forked(
        train_symbols,
        tmp_path,
        'two',
        3,
        launcher='pytorch',
        model_wrapper_cfg=DDP,
        ranks=2,
        folder=tmp_path,
    ).join()
    one, *two = (
        [
            {
                k: float.fromhex(v)
                for k, v in line.items()
                if 'loss' in k or 'recall' in k
            }
            for line in records(tmp_path / f'{name}.jsonl', rank)
        ]
        for name, rank in (('one', 0), ('two', 0), ('two', 1))
    )
    assert len(one) == 3 and {f'loss_p{i}' for i in range(2, 6)} < set(one[0])
    for run in two:
        assert run == [pytest.approx(line, abs=1e-4) for line in one]
    one, two = (
        torch.load(tmp_path / f'{name}_metrics.pt') for name in ('one', 'two')
    )
    assert len(one) == 7 and two == pytest.approx(one)
