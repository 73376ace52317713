# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A run in two processes is the run of one with the double batch."""

import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.runner import Runner
from pretrain_files import clip_model, runner_cfg, write_data


def train(root, name, batch_size, **kwargs):
    cfg = runner_cfg(root, root / name, clip_model(), max_iters=6,
                     batch_size=batch_size, optimizer='SGD', lr=0.1, **kwargs)
    runner = Runner(**cfg)
    runner.train()
    model = runner.model
    return getattr(model, 'module', model).state_dict()


def worker(rank, root):
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)  # mmengine asks for it
    dist.init_process_group(
        'gloo', init_method=f'file://{root}/init', rank=rank, world_size=2)
    kwargs = dict(
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=dict(
            type='MMDistributedDataParallel', device_ids=None)))
    state = train(root, 'two', 5, **kwargs)
    resumed = train(root, 'resumed', 5, resume=True,
                    load_from=str(root / 'two' / 'iter_3.pth'), **kwargs)
    torch.save([state, resumed], root / f'{rank}.pt')
    dist.destroy_process_group()


def test_two_processes_train_as_one(tmp_path):
    write_data(tmp_path)
    one = train(tmp_path, 'one', 10)
    mp.spawn(worker, (tmp_path, ), nprocs=2)
    for rank in (0, 1):
        for state in torch.load(tmp_path / f'{rank}.pt'):
            for name, value in one.items():
                torch.testing.assert_close(state[name], value, rtol=1e-4,
                                           atol=1e-5, msg=name)
