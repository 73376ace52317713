# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Detection trains the batch of its schedule on any number of processes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny_detector import TEXT_ENCODER, pretrained, tiny_config
from tiny_training import box, write
from torch.distributed.tensor import DTensor
from training_runs import Forked

from dito.engine import DITOFlexibleRunner
from dito.utils.checkpoint import load_from_file

STEPS = 4
DDP = dict(type='MMDistributedDataParallel', device_ids=None)


def many_images(data: dict[str, list]) -> None:
    """Eleven images with one to three objects."""
    rng, count = np.random.default_rng(3), 0
    data['images'] = [
        dict(data['images'][0], id=i, file_name=f'{i}.png')
        for i in range(1, 12)
    ]
    data['annotations'] = []
    for image in range(1, 12):
        for place in range(rng.integers(1, 4)):
            count += 1
            data['annotations'].append(
                box(count, image, (3, 9)[count % 2], 2 + 15 * place)
            )


class Record(Hook):
    """Write what each step saw to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        samples = data_batch['data_samples']
        assert len(samples) == len(data_batch['inputs'])
        line = dict(
            iter=runner.iter,
            batch_idx=batch_idx,
            lr=runner.optim_wrapper.get_lr()['lr'][0],
            images=[s.img_id for s in samples],
            sizes=[s.img_shape for s in samples],
            norm=runner.message_hub.get_scalar('train/grad_norm').current(),
            logged=runner.message_hub.get_scalar('train/loss').current(),
            **{k: float(v) for k, v in outputs.items() if 'loss' in k},
        )
        with open(f'{self.path}.{get_rank()}', 'a') as file:
            file.write(json.dumps(line) + '\n')


def config(
    root: Path, name: str, total: int = 8, images: int = 2, **train_cfg: Any
) -> Config:
    """A training with all that a resume and a batch must keep."""
    pipeline = [
        dict(type='DITOLoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(
            type='RandomResize',
            scale=(64, 64),
            ratio_range=(0.7, 1.3),
            keep_ratio=True,
        ),
        dict(
            type='RandomCrop',
            crop_type='absolute',
            crop_size=(64, 64),
            allow_negative_crop=True,
        ),
        dict(type='RandomFlip', prob=0.5),
        dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape'),
        ),
    ]
    model = tiny_config(
        text_encoder=TEXT_ENCODER,
        teacher=dict(checkpoint=str(root / 'pretrained.pth')),
        roi_head=dict(loss_distill=dict(type='DITOCosineDistillLoss')),
    )
    return Config(
        dict(
            default_scope='mmdet',
            experiment_name=f'{root.name}_{name}',
            work_dir=str(root / name),
            model=model,
            load_from=str(root / 'pretrained.pth'),
            train_dataloader=dict(
                batch_size=images,
                num_workers=0,
                sampler=dict(type='InfiniteSampler', shuffle=True),
                dataset=dict(
                    type='DITOLVISDataset',
                    split='base',
                    ann_file=str(root / 'train.json'),
                    data_prefix=dict(img=str(root)),
                    pipeline=pipeline,
                ),
            ),
            train_cfg=dict(
                dict(
                    type='DITOTrainLoop',
                    max_iters=STEPS,
                    total_batch_size=total,
                ),
                **train_cfg,
            ),
            optim_wrapper=dict(
                clip_grad=dict(max_norm=2.0),
                optimizer=dict(type='SGD', lr=0.02, momentum=0.9),
            ),
            param_scheduler=[
                dict(
                    type='LinearLR',
                    start_factor=0.1,
                    by_epoch=False,
                    end=STEPS,
                )
            ],
            custom_hooks=[dict(type='DITOVocabularyHook', templates='none')],
            default_hooks=dict(
                checkpoint=dict(
                    type='DITOCheckpointHook',
                    by_epoch=False,
                    interval=2,
                    max_keep_ckpts=5,
                ),
                iteration_seed=dict(type='DITOIterationSeedHook'),
                guard=dict(type='DITONonFiniteGuardHook'),
            ),
            log_processor=dict(by_epoch=False),
            randomness=dict(seed=5),
            log_level='ERROR',
        )
    )


def train(
    cfg: Config, record: Path, resume: bool = False, sharded: bool = False
) -> None:
    """Run a training in each process of the group."""
    if sharded:
        if not dist.is_initialized():  # FSDP wants a group of one, too.
            dist.init_process_group(
                'gloo',
                init_method=f'file://{record}.meeting',
                rank=0,
                world_size=1,
            )
        cfg.launcher, cfg.env_cfg = 'pytorch', dict()
        cfg.strategy = dict(type='DITOFSDPStrategy')
    elif get_world_size() > 1:
        cfg.launcher, cfg.model_wrapper_cfg = 'pytorch', DDP
    cfg.resume = resume
    if resume:
        cfg.load_from = None
    kind = DITOFlexibleRunner if sharded else Runner
    runner = kind.from_cfg(cfg)
    runner.register_hook(Record(record), priority='LOW')
    runner.train()
    if sharded:
        assert all(
            isinstance(p, DTensor) for p in runner.model.backbone.parameters()
        )


def steps_of(record: Path, ranks: int) -> list[dict]:
    """Steps of a run, with the images of all processes in order."""
    parts = [
        [
            json.loads(line)
            for line in Path(f'{record}.{rank}').read_text().splitlines()
        ]
        for rank in range(ranks)
    ]
    steps = []
    for lines in zip(*parts, strict=True):
        seen = sorted(
            (image, *map(tuple, [size]))
            for line in lines
            for image, size in zip(
                line.pop('images'), line.pop('sizes'), strict=True
            )
        )
        assert all(line == lines[0] for line in lines)  # means over ranks
        steps.append(dict(lines[0], seen=seen))
    return steps


def assert_same(
    root: Path, one: str, other: str, ranks: int, first: int = 0
) -> None:
    """Losses of each step and the weights at the end agree."""
    expected = steps_of(root / f'{one}.jsonl', 1)[first:]
    found = steps_of(root / f'{other}.jsonl', ranks)
    assert len(found) == len(expected) == STEPS - first
    for step, line in zip(expected, found, strict=True):
        assert line.pop('seen') == step.pop('seen')
        # A norm is as inexact as the largest of its parts.
        assert line.pop('norm') == pytest.approx(step.pop('norm'), rel=1e-4)
        # So is a loss after steps in another order of sums, float32.
        assert line == pytest.approx(step, rel=1e-4, abs=1e-6 * step['logged'])
    weights, others = (
        load_from_file(str(root / name / f'iter_{STEPS}.pth'))
        for name in (one, other)
    )
    for name, value in weights['state_dict'].items():
        torch.testing.assert_close(
            others['state_dict'][name], value, rtol=1e-4, atol=1e-6, msg=name
        )


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, weights, and the run of one process."""
    folder = tmp_path_factory.mktemp('batch')
    write(folder, many_images)
    pretrained(folder)
    Forked(
        train, config(folder, 'one'), folder / 'one.jsonl', folder=folder
    ).join()
    return folder


def test_a_step_is_the_whole_batch(root: Path) -> None:
    steps = steps_of(root / 'one.jsonl', 1)
    assert [s['iter'] for s in steps] == list(range(STEPS))
    assert [s['batch_idx'] for s in steps] == list(range(STEPS))
    assert all(len(s['seen']) == 8 for s in steps)
    # The warm-up ends after three steps, not after three pieces.
    assert [s['lr'] for s in steps] == pytest.approx(
        [0.02 * min(1, 0.1 + 0.3 * i) for i in range(1, STEPS + 1)]
    )
    assert (root / 'one' / 'iter_2.pth').is_file()
    # Eleven images a pass: each once in the first 11 of the order.
    seen = [image for s in steps for image, _ in s['seen']]
    assert sorted(seen[:8]) == sorted(set(seen[:8]))


@pytest.mark.parametrize('ranks,workers', [(2, 0), (4, 2)])
def test_any_number_of_processes(root: Path, ranks: int, workers: int) -> None:
    name = f'ranks{ranks}'
    cfg = config(root, name)
    cfg.train_dataloader.num_workers = workers
    Forked(train, cfg, root / f'{name}.jsonl', ranks=ranks, folder=root).join()
    assert_same(root, 'one', name, ranks)


@pytest.mark.parametrize('ranks', [1, 4])
def test_resumed_on_another_number(root: Path, ranks: int) -> None:
    """Two processes until step 2, then others."""
    name = f'resumed{ranks}'
    Forked(
        train,
        config(root, name, max_iters=2),
        root / 'before.jsonl',
        ranks=2,
        folder=root,
    ).join()
    Forked(
        train,
        config(root, name),
        root / f'{name}.jsonl',
        True,
        ranks=ranks,
        folder=root,
    ).join()
    assert_same(root, 'one', name, ranks, first=2)
    shutil.rmtree(root / name)


@pytest.mark.parametrize('ranks', [1, 2])
def test_sharded(root: Path, ranks: int) -> None:
    """Weights shared out to processes, each of which takes two pieces."""
    name = f'sharded{ranks}'
    Forked(
        train,
        config(root, name),
        root / f'{name}.jsonl',
        sharded=True,
        ranks=ranks,
        folder=root,
    ).join()
    assert_same(root, 'one', name, ranks)
