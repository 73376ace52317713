# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Two processes give the values and gradients of one."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dito.models.losses import (
    DITOContrastiveLoss,
    DITOFocalContrastiveLoss,
    DITOSigmoidLoss,
)

LOSSES = dict(
    contrastive=DITOContrastiveLoss,
    contrastive_chunked=partial(DITOContrastiveLoss, row_chunk=2),
    focal=DITOFocalContrastiveLoss,
    focal_chunked=partial(DITOFocalContrastiveLoss, row_chunk=1),
    sigmoid=DITOSigmoidLoss,
    sigmoid_chunked=partial(DITOSigmoidLoss, row_chunk=2),
)
# Rows of each rank: even, uneven, and one rank without any.
SPLITS = ([3, 3], [4, 2], [6, 0])


class _Towers(nn.Module):
    """Two linear towers and a temperature, in float64."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.image = nn.Linear(4, 5).double()
        self.text = nn.Linear(4, 5).double()
        self.scale = nn.Parameter(torch.tensor(4.0, dtype=torch.float64))
        self.loss = loss

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.loss(self.image(image), self.text(text), self.scale)


def _batch() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randn(6, 4, generator=generator, dtype=torch.float64)
        for _ in range(2)
    ]


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name.removeprefix('module.'): p.grad.clone()
        for name, p in model.named_parameters()
    }


class _OpenClip(nn.Module):
    """open_clip's loss with the features of all ranks, with gradient."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__()
        self.loss = ClipLoss(
            local_loss=True,
            gather_with_grad=True,
            rank=rank,
            world_size=world_size,
        )

    def forward(self, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return self.loss(F.normalize(image), F.normalize(text), scale)


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'file://{folder}/init', rank=rank, world_size=2
    )
    results = {}
    for name, loss_type in LOSSES.items():
        for split in SPLITS:
            model = DistributedDataParallel(_Towers(loss_type()))
            start = sum(split[:rank])
            rows = slice(start, start + split[rank])
            loss = model(*(x[rows] for x in _batch()))
            loss.backward()
            value = loss.detach().clone()
            dist.all_reduce(value)
            results[name, tuple(split)] = (value / 2, _gradients(model))
    model = DistributedDataParallel(_Towers(_OpenClip(rank, 2)))
    loss = model(*(x[3 * rank : 3 * rank + 3] for x in _batch()))
    loss.backward()
    value = loss.detach().clone()
    dist.all_reduce(value)
    results['open_clip'] = (value / 2, _gradients(model))
    torch.save(results, f'{folder}/{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp('ranks')
    # Not by fork: locks that a thread of an earlier test holds stay held.
    mp.start_processes(_worker, (str(folder),), nprocs=2, start_method='spawn')
    return [torch.load(folder / f'{r}.pth') for r in range(2)]


@pytest.mark.parametrize('split', SPLITS, ids=str)
@pytest.mark.parametrize('name', LOSSES)
def test_value_and_gradients_equal_one_process(
    two_processes, name, split
) -> None:
    model = _Towers(LOSSES[name]())
    loss = model(*_batch())
    loss.backward()
    want = _gradients(model)
    for results in two_processes:
        value, got = results[name, tuple(split)]
        assert value.item() == pytest.approx(loss.item(), abs=1e-10)
        assert got.keys() == want.keys()
        for key in want:
            torch.testing.assert_close(
                got[key], want[key], atol=1e-10, rtol=1e-10
            )


def test_two_processes_equal_open_clip_in_two_processes(two_processes) -> None:
    for results in two_processes:
        value, got = results['contrastive', (3, 3)]
        want_value, want = results['open_clip']
        torch.testing.assert_close(value, want_value)
        for key in want:
            torch.testing.assert_close(got[key], want[key])
