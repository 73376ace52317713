# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Steps in pieces with a model of three numbers, in float64."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import DATASETS, HOOKS, MODELS
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import Dataset

from dito.engine.hooks.non_finite_guard_hook import NonFiniteError

RATE, SIZE = 0.1, 20


@DATASETS.register_module()
class Plane(Dataset):
    """Points with their height above a plane."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(SIZE, 3, generator=generator, dtype=torch.float64)
        self.metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict[str, Any]:
        x = self.x[index]
        return dict(
            x=x,
            y=x @ x.new_tensor([1.0, -2.0, 3.0]) + x[0] ** 2,
            number=int(index),
        )


@MODELS.register_module()
class PlaneFit(BaseModel):
    """Mean squared error, whose gradient is a mean over samples."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(
        self, x: Tensor, y: Tensor, number: Tensor, mode: str = 'loss'
    ) -> dict[str, Tensor]:
        return dict(loss=(x @ self.weight - y).square().mean())


@HOOKS.register_module()
class StepList(Hook):
    """Write the samples of each step; spoil a loss in one of its pieces."""

    priority = 'LOW'

    def __init__(self, path: str, at: int = 0, piece: int = 0) -> None:
        self.path, self.at, self.piece, self.calls = path, at, piece, 0

    def before_train(self, runner: Any) -> None:
        def spoil(module: Any, args: Any, losses: dict[str, Tensor]) -> None:
            if runner.iter + 1 == self.at and self.calls == self.piece:
                losses['loss'] = losses['loss'] * math.nan
            self.calls += 1

        runner.model.register_forward_hook(spoil)

    def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
        self.calls = 0

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        with open(self.path, 'a') as file:
            file.write(
                json.dumps(
                    dict(
                        step=runner.iter,
                        batch=batch_idx,
                        calls=self.calls,
                        numbers=data_batch['number'].tolist(),
                        lr=runner.optim_wrapper.get_lr()['lr'][0],
                    )
                )
                + '\n'
            )


def train(
    folder: Path,
    name: str,
    images: int = 2,
    steps: int = 6,
    resume: bool = False,
    sampler: str = 'InfiniteSampler',
    by_epoch: bool = False,
    **changes: Any,
) -> tuple[Tensor, list[dict], Runner]:
    """Weights at the end, the steps of this training, and its runner."""
    record = folder / f'{name}_{len(list(folder.iterdir()))}.jsonl'
    cfg = dict(
        model=dict(type='PlaneFit'),
        work_dir=str(folder / name),
        experiment_name=f'{folder.name}_{name}_{record.stem}',
        default_scope='mmdet',
        resume=resume,
        randomness=dict(seed=4),
        train_dataloader=dict(
            batch_size=images,
            num_workers=0,
            dataset=dict(type='Plane'),
            collate_fn=dict(type='default_collate'),
            sampler=dict(type=sampler, shuffle=True),
        ),
        train_cfg=dict(
            type='DITOTrainLoop', max_iters=steps, total_batch_size=8
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=RATE, momentum=0.9)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, end=4, by_epoch=False)
        ],
        default_hooks=dict(
            checkpoint=dict(
                type='DITOCheckpointHook',
                by_epoch=by_epoch,
                interval=1,
                max_keep_ckpts=9,
            ),
            guard=dict(type='DITONonFiniteGuardHook'),
            record=dict(
                type='StepList', path=str(record), **changes.pop('spoil', {})
            ),
        ),
        log_processor=dict(by_epoch=by_epoch),
        log_level='ERROR',
    )
    runner = Runner(**dict(cfg, **changes))
    runner.train()
    return runner.model.weight.detach().clone(), steps_of(record), runner


def steps_of(record: Path) -> list[dict]:
    """Lines that :class:`StepList` wrote."""
    return [json.loads(line) for line in record.read_text().splitlines()]


def test_pieces_are_the_whole_batch(tmp_path: Path) -> None:
    """Means of equal pieces: the same steps as far as float64 goes."""
    whole, steps, _ = train(tmp_path, 'whole', images=8)
    pieces, other, _ = train(tmp_path, 'pieces', images=2)
    assert [s.pop('calls') for s in steps] == [1] * 6
    assert [s.pop('calls') for s in other] == [4] * 6
    assert other == steps and len(steps[0]['numbers']) == 8
    assert whole.abs().min() > 0.1
    assert (pieces - whole).abs().max() <= 1e-10 * whole.abs().max()


def test_a_bad_piece_drops_its_step(tmp_path: Path) -> None:
    """Nothing of the step is kept, and a resume trains it again, whole."""
    straight, steps, _ = train(tmp_path, 'straight')
    with pytest.raises(NonFiniteError, match='Step 4: loss is nan'):
        train(tmp_path, 'run', spoil=dict(at=4, piece=2))
    (record,) = tmp_path.glob('run_*.jsonl')
    assert steps_of(record) == steps[:3]
    saved = sorted(p.name for p in (tmp_path / 'run').glob('*.pth'))
    assert saved == [f'iter_{n}.pth' for n in (1, 2, 3)]
    again, rest, runner = train(tmp_path, 'run', resume=True)
    assert rest == steps[3:] and runner.iter == 6
    assert torch.equal(again, straight)


def test_a_sampler_with_an_end(tmp_path: Path) -> None:
    """Passes of 20 samples, 8 per step; resumed within the second pass."""
    straight, steps, _ = train(tmp_path, 'straight', sampler='DefaultSampler')
    order = [n for s in steps for n in s['numbers']]
    assert sorted(order[:20]) == sorted(order[20:40]) == list(range(20))
    assert order[:20] != order[20:40]
    train(tmp_path, 'run', sampler='DefaultSampler', steps=3)
    again, rest, _ = train(
        tmp_path, 'run', sampler='DefaultSampler', resume=True
    )
    assert rest == steps[3:]
    assert torch.equal(again, straight)


def test_epochs_with_resume(tmp_path: Path) -> None:
    """MMEngine's loop: two epochs of three batches, resumed after one."""

    def run(name: str, epochs: int, resume: bool = False) -> tuple:
        return train(
            tmp_path,
            name,
            images=8,
            sampler='DefaultSampler',
            resume=resume,
            by_epoch=True,
            param_scheduler=None,
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs),
        )

    straight, steps, _ = run('straight', 2)
    assert [len(s['numbers']) for s in steps] == [8, 8, 4] * 2
    run('run', 1)
    again, rest, _ = run('run', 2, resume=True)
    assert [s['numbers'] for s in rest] == [s['numbers'] for s in steps[3:]]
    assert torch.equal(again, straight)


def test_another_batch_scales_the_rate(tmp_path: Path) -> None:
    """Two images on one process instead of the schedule's eight."""
    _, steps, runner = train(
        tmp_path,
        'scaled',
        param_scheduler=None,
        auto_scale_lr=dict(base_batch_size=8, enable=True),
    )
    assert [s['lr'] for s in steps] == pytest.approx([RATE * 2 / 8] * 6)
    assert [len(s['numbers']) for s in steps] == [2] * 6
    assert runner.train_loop.plan.total == 2
