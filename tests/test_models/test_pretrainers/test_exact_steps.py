# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""One step is the same in one piece, in pieces, and in two processes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from pretrainer_models import build, clip_cfg, make_batch, rep_cfg

from dito.engine.loops.cached_step import cached_train_step

STAGES = dict(
    clip=lambda: clip_cfg(cpe=dict(up_size=16)),
    rep=rep_cfg,
    rep_all=lambda: rep_cfg(levels='all', pooling='mean', rpn_head=None))


def step(stage, batch, micro_batch, wrap=lambda model: model):
    """Train one step from fixed weights; new weights and logs."""
    torch.manual_seed(7)
    model = build(STAGES[stage]()).train()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=1.0)
    wrapped, optim_wrapper = wrap(model), OptimWrapper(optimizer)
    if micro_batch is None:
        logs = wrapped.train_step(batch, optim_wrapper)
    else:
        logs = cached_train_step(wrapped, batch, optim_wrapper, micro_batch)
    return model.state_dict(), {k: float(v) for k, v in logs.items()}


def assert_same(one, other):
    for name, value in one[0].items():
        torch.testing.assert_close(
            other[0][name], value, rtol=1e-4, atol=1e-5, msg=name)
    for name, value in one[1].items():
        # Recall is over the batch of a process.
        if not name.startswith('recall'):
            assert other[1][name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize('micro_batch', [1, 3])
@pytest.mark.parametrize('stage', list(STAGES))
def test_micro_batches(stage, micro_batch):
    whole = step(stage, make_batch(), None)
    parts = step(stage, make_batch(), micro_batch)
    assert whole[1].keys() == parts[1].keys()
    assert_same(whole, parts)
    torch.manual_seed(7)
    start = build(STAGES[stage]()).state_dict()
    assert any(not torch.equal(start[n], whole[0][n]) for n in start)


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/init', rank=rank, world_size=2)
    whole = make_batch()
    batch = dict(
        inputs=whole['inputs'][rank::2], texts=whole['texts'][rank::2],
        place=whole['place']._replace(total=2))
    results = {
        (stage, micro_batch): step(stage, batch, micro_batch,
                                   MMDistributedDataParallel)
        for stage in STAGES for micro_batch in (None, 1)
    }
    torch.save(results, f'{folder}/rank_{rank}.pt')
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    mp.spawn(worker, (str(tmp_path), ), nprocs=2)
    ranks = [torch.load(tmp_path / f'rank_{rank}.pt') for rank in (0, 1)]
    for stage in STAGES:
        one = step(stage, make_batch(), None)
        for micro_batch in (None, 1):
            for rank in ranks:
                assert_same(one, rank[stage, micro_batch])
