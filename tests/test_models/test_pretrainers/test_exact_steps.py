# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""One step is the same in one piece, in pieces, and in two processes."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from pretrainer_models import build, clip_cfg, make_batch, pyramid_cfg, rep_cfg
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    allreduce_hook,
)

from dito.engine.loops.cached_step import cached_train_step
from dito.models.losses import contrastive_ops

FOCAL = dict(loss=dict(type='DITOFocalContrastiveLoss'))
SIGMOID = dict(
    loss=dict(type='DITOSigmoidLoss'),
    logit_bias_init=-4.0,
    logit_scale_init=math.log(10),
)
CHUNKED = dict(loss=dict(type='DITOContrastiveLoss', row_chunk=2))
STAGES = dict(
    clip=lambda: clip_cfg(cpe=dict(up_size=16)),
    clip_focal=lambda: clip_cfg(**FOCAL),
    clip_sigmoid=lambda: clip_cfg(**SIGMOID),
    clip_chunked=lambda: clip_cfg(**CHUNKED),
    rep=rep_cfg,
    rep_focal=lambda: rep_cfg(**FOCAL),
    rep_sigmoid=lambda: rep_cfg(**SIGMOID),
    rep_chunked=lambda: rep_cfg(**CHUNKED),
    rep_mean=lambda: rep_cfg(pooling='mean'),
    rep_all=lambda: rep_cfg(levels='all', rpn_head=None),
    rep_global=lambda: rep_cfg(pooling='global_max'),
    fpn=pyramid_cfg,
)
SIZE = 6
# Of six samples, and of the three of each of two processes; the last piece
# is smaller with 4 and with 2.
PIECES = (1, 3, 4)
PIECES_OF_TWO = (None, 1, 2)


class Recorder(torch.optim.SGD):
    """Keeps the gradients of the last step."""

    def step(self, closure=None):
        self.grads = [
            p.grad.clone()
            for group in self.param_groups
            for p in group['params']
        ]
        return super().step(closure)


def step(stage, batch, micro_batch, wrap=lambda model: model):
    """Train one step from fixed weights; gradients and logs."""
    torch.manual_seed(7)
    model = build(STAGES[stage]()).train()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = Recorder(trained.values(), lr=1.0)
    wrapped, optim_wrapper = wrap(model), OptimWrapper(optimizer)
    if micro_batch is None:
        logs = wrapped.train_step(batch, optim_wrapper)
    else:
        logs = cached_train_step(wrapped, batch, optim_wrapper, micro_batch)
    grads = dict(zip(trained, optimizer.grads, strict=True))
    return grads, {k: v.item() for k, v in logs.items()}


def assert_same(one, other):
    """Gradients and logs agree to 1e-5 of the largest value, in float32."""
    assert one[0].keys() == other[0].keys()
    for name, value in one[0].items():
        limit = 1e-5 * max(1.0, value.abs().max().item())
        error = (value - other[0][name]).abs().max().item()
        assert error <= limit, (name, error, limit)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        assert other[1][name] == pytest.approx(value, rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize('stage', list(STAGES))
def test_micro_batches(stage):
    whole = step(stage, make_batch(SIZE), None)
    assert any(grad.abs().max() > 1e-3 for grad in whole[0].values())
    for micro_batch in PIECES:
        assert_same(whole, step(stage, make_batch(SIZE), micro_batch))


def counted_step(stage, batch, micro_batch):
    """Number of gradient messages and of feature gathers of a step."""
    counts = dict(messages=0, gathers=0)
    gather_rows = contrastive_ops.gather_rows

    def wrap(model):
        model = MMDistributedDataParallel(model)

        def hook(state, bucket):
            counts['messages'] += 1
            return allreduce_hook(state, bucket)

        model.register_comm_hook(None, hook)
        return model

    def counting(x):
        counts['gathers'] += 1
        return gather_rows(x)

    contrastive_ops.gather_rows = counting
    try:
        step(stage, batch, micro_batch, wrap)
    finally:
        contrastive_ops.gather_rows = gather_rows
    return counts


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/init', rank=rank, world_size=2
    )
    whole = make_batch(SIZE)
    batch = dict(
        inputs=whole['inputs'][rank::2],
        texts=whole['texts'][rank::2],
        place=whole['place']._replace(total=SIZE // 2),
    )
    results = {
        (stage, pieces): step(stage, batch, pieces, MMDistributedDataParallel)
        for stage in STAGES
        for pieces in PIECES_OF_TWO
    }
    counts = {
        (stage, pieces): counted_step(stage, batch, pieces)
        for stage in ('clip', 'rep', 'rep_sigmoid')
        for pieces in (None, 1)
    }
    torch.save((results, counts), f'{folder}/rank_{rank}.pt')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    mp.start_processes(worker, (str(folder),), nprocs=2, start_method='fork')
    return [torch.load(folder / f'rank_{rank}.pt') for rank in (0, 1)]


@pytest.mark.parametrize('stage', list(STAGES))
def test_two_processes(two_processes, stage):
    one = step(stage, make_batch(SIZE), None)
    for pieces in PIECES_OF_TWO:
        for results, _ in two_processes:
            assert_same(one, results[stage, pieces])


def test_gradients_are_exchanged_once(two_processes):
    """Three pieces send as many messages as one batch."""
    for _, counts in two_processes:
        for stage in ('clip', 'rep', 'rep_sigmoid'):
            whole, pieces = counts[stage, None], counts[stage, 1]
            assert whole['messages'] == pieces['messages'] >= 1


def test_levels_share_one_gather(two_processes):
    """Texts and the images of four levels travel together."""
    for _, counts in two_processes:
        assert {c['gathers'] for c in counts.values()} == {1}


def test_temperature_stays_in_range_in_pieces():
    torch.manual_seed(7)
    model = build(clip_cfg(logit_scale_init=math.log(99.9))).train()
    wrapper = OptimWrapper(torch.optim.SGD([model.logit_scale], lr=1e3))
    model.logit_scale.register_hook(lambda grad: -grad.abs() - 1)
    cached_train_step(model, make_batch(), wrapper, 3)
    assert model.logit_scale > math.log(100)
    model.clamp_logit_scale()
    assert model.logit_scale.exp().item() == pytest.approx(100, rel=1e-6)
