# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Averaging of logged values over ranks."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.model import BaseModel

from dito.models.utils import DistributedLogMixin, reduce_log_vars


class _Model(DistributedLogMixin, BaseModel):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return inputs


def _losses(rank: int, weight: torch.Tensor) -> dict:
    return dict(
        loss_a=weight * (rank + 1),
        loss_b=[weight * 10 * rank, weight],
        acc=torch.tensor(50.0 * rank),
    )


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'file://{folder}/init', rank=rank, world_size=2
    )
    weight = torch.tensor(1.0, requires_grad=True)
    calls = []
    real = dist.all_reduce
    dist.all_reduce = lambda *a, **k: calls.append(1) or real(*a, **k)
    loss, log_vars = _Model().parse_losses(_losses(rank, weight))
    loss.backward()
    result = dict(
        loss=loss.item(),
        grad=weight.grad.item(),
        calls=len(calls),
        log={k: v.item() for k, v in log_vars.items()},
    )
    names = ['loss', 'loss_x'] if rank else ['loss', 'loss_y', 'more']
    try:
        reduce_log_vars({n: torch.tensor(1.0) for n in names})
    except RuntimeError as error:
        result['error'] = str(error)
    torch.save(result, f'{folder}/{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp('ranks')
    mp.start_processes(_worker, (str(folder),), nprocs=2, start_method='fork')
    return [torch.load(folder / f'{r}.pth') for r in range(2)]


def test_logged_values_are_means_over_ranks(ranks) -> None:
    want = dict(loss=7.5, loss_a=1.5, loss_b=6.0, acc=25.0)
    assert ranks[0]['log'] == ranks[1]['log'] == want


def test_own_loss_is_back_propagated(ranks) -> None:
    assert [r['loss'] for r in ranks] == [2.0, 13.0]
    assert [r['grad'] for r in ranks] == [2.0, 13.0]


def test_one_message_a_step(ranks) -> None:
    assert [r['calls'] for r in ranks] == [1, 1]


def test_different_keys_are_told(ranks) -> None:
    for rank in ranks:
        assert 'Ranks log different values' in rank['error']


def test_one_process_changes_nothing() -> None:
    loss, log_vars = _Model().parse_losses(dict(loss_a=torch.tensor(2.0)))
    assert loss.item() == log_vars['loss'].item() == 2.0
    assert list(log_vars) == ['loss', 'loss_a']
