# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Trainings on tiny symbols shards, in processes that can be killed."""

import json
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmdet.registry import HOOKS
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from dito.datasets.symbols import load_glyphs
from dito.datasets.symbols.rasterizer import GlyphAtlas
from dito.datasets.symbols.shards import single_samples, write_tar
from dito.engine.hooks.non_finite_guard_hook import sample_names
from dito.models.text import DITOTextEncoder
from dito.utils.checkpoint import load_from_file

_FORK = multiprocessing.get_context('fork')


@HOOKS.register_module()
class RunRecorder(Hook):
    """Write the samples and the exact values of every step to a file.

    ``pause`` is the least duration of an iteration in seconds: a run must
    last long enough to be killed.
    """

    priority = 'LOW'

    def __init__(self, path: str, pause: float = 0.0) -> None:
        self.path = f'{path}.{get_rank()}'
        self.pause = pause

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        line = dict(iter=runner.iter, keys=sample_names(data_batch))
        for name, value in outputs.items():
            if 'loss' in name or 'recall' in name:
                line[name] = torch.as_tensor(value).item().hex()
        for scale in ('loss', 'lr', 'grad_norm'):
            hub = runner.message_hub.log_scalars.get(f'train/{scale}')
            if hub is not None:
                line[f'mean_{scale}'] = float(hub.mean(4)).hex()
        with open(self.path, 'a') as file:
            file.write(json.dumps(line) + '\n')
        time.sleep(self.pause)


def records(path: Path, rank: int = 0) -> list[dict]:
    """Lines of a :class:`RunRecorder`; of a killed one the whole ones."""
    file = Path(f'{path}.{rank}')
    lines = file.read_text().splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith('}')]


def differences(one: Any, other: Any, path: str = 'checkpoint') -> list[str]:
    """Where two checkpoints differ, bit by bit."""
    if isinstance(one, torch.Tensor):
        same = (
            one.dtype == other.dtype
            and one.shape == other.shape
            and torch.equal(one, other)
        )
        return [] if same else [path]
    if isinstance(one, HistoryBuffer):
        return differences(
            [list(x) for x in one.data], [list(x) for x in other.data], path
        )
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f'{path}: keys']
        pairs = [(k, one[k], other[k]) for k in one]
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f'{path}: length']
        pairs = [
            (i, a, b) for i, (a, b) in enumerate(zip(one, other, strict=True))
        ]
    else:
        return [] if one == other else [f'{path}: {one} {other}']
    return [d for k, a, b in pairs for d in differences(a, b, f'{path}.{k}')]


# What tells the time of day, the folder or the machine.
CLOCKS = (
    'time',
    'data_time',
    'images_per_second',
    'loader_wait',
    'memory',
    'tflops',
)


def comparable(folder: Path, iteration: int) -> dict:
    """A checkpoint without what tells the time or the folder."""
    checkpoint = load_from_file(str(folder / f'iter_{iteration}.pth'))
    hub = checkpoint['message_hub']
    for phase in ('train', 'val'):
        for name in CLOCKS:
            hub['log_scalars'].pop(f'{phase}/{name}', None)
    for name in ('last_ckpt', 'cfg', 'experiment_name', 'mmengine_version'):
        hub['runtime_info'].pop(name, None)
    assert checkpoint['meta'].pop('iter') == iteration
    return {
        k: checkpoint[k]
        for k in (
            'state_dict',
            'ema_state_dict',
            'optimizer',
            'param_schedulers',
            'message_hub',
        )
        if k in checkpoint
    }


def write_symbols(root: Path, shards: int = 4, number: int = 30) -> list[str]:
    """Draw small image-text shards; returns the captions."""
    atlas = GlyphAtlas(load_glyphs())
    captions = []
    for shard in range(shards):
        samples = list(single_samples(atlas, 0, shard, number, 16))
        captions += [caption for _, _, caption in samples]
        write_tar(str(root / f'{shard:02d}.tar'), samples)
    return captions


def training_cfg(
    root: Path, captions: list[str], work_dir: Path, **changes: Any
) -> dict:
    """Keyword arguments of a Runner with all that a resume must restore."""
    token_ids = DITOTextEncoder.collect_token_ids(captions)
    cfg = dict(
        model=dict(
            type='mmdet.CLIPPretrainer',
            backbone=dict(
                type='DITOViT',
                img_size=16,
                patch_size=8,
                arch=dict(embed_dims=16, num_layers=2, num_heads=2),
            ),
            text_encoder=dict(
                type='DITOTextEncoder',
                embed_dims=16,
                context_length=16,
                arch=dict(width=16, layers=1, heads=2),
                token_ids=token_ids,
            ),
            cpe=dict(up_size=8),
        ),
        work_dir=str(work_dir),
        default_scope='mmdet',
        experiment_name=f'{work_dir.name}_{time.time_ns()}',
        train_dataloader=dict(
            batch_size=6,
            num_workers=0,
            sampler=None,
            collate_fn=dict(type='image_text_collate'),
            dataset=dict(
                type='ImageTextShards',
                size=16,
                num_streams=4,
                shuffle_block=4,
                shards=str(root / '{00..03}.tar'),
            ),
        ),
        train_cfg=dict(
            type='ImageTextTrainLoop',
            max_iters=12,
            val_interval=100,
            micro_batch=4,
        ),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=1e-2), clip_grad=dict(max_norm=1.0)
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=5),
            dict(type='PolyLR', by_epoch=False, begin=5, end=12),
        ],
        default_hooks=dict(
            checkpoint=dict(
                type='DITOCheckpointHook',
                by_epoch=False,
                interval=3,
                max_keep_ckpts=2,
            ),
            logger=dict(type='LoggerHook', interval=1),
            guard=dict(type='DITONonFiniteGuardHook'),
            seed=dict(type='DITOIterationSeedHook'),
            record=dict(type='RunRecorder', path=f'{work_dir}.jsonl'),
        ),
        custom_hooks=[dict(type='DITOEMAHook', momentum=0.1)],
        log_processor=dict(by_epoch=False, window_size=4),
        randomness=dict(seed=0),
    )
    for key, value in changes.items():
        part, _, name = key.rpartition('__')
        target = cfg
        for step in filter(None, part.split('__')):
            target = target[step]
        target[name] = value
    return cfg


def free_port() -> str:
    """Find a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return str(listener.getsockname()[1])


def train(cfg: dict) -> Runner:
    """Run a training in this process."""
    torch.set_num_threads(1)
    runner = Runner(**cfg)
    runner.train()
    return runner


class Forked:
    """A function in other processes, without a new import of everything.

    Args:
        function (callable): Called with the arguments, in each process.
        ranks (int): Number of processes; from 2 on they form a gloo group.
        folder (Path): Where the processes meet and leave their errors.
    """

    def __init__(
        self,
        function: Callable,
        *args: Any,
        ranks: int = 1,
        folder: Path,
        **kwargs: Any,
    ) -> None:
        meeting = folder / f'meeting_{time.time_ns()}'
        self.errors = [Path(f'{meeting}_error_{r}') for r in range(ranks)]
        self.processes = [
            _FORK.Process(
                target=_enter,
                args=(
                    partial(function, *args, **kwargs),
                    rank,
                    ranks,
                    meeting,
                    self.errors[rank],
                ),
            )
            for rank in range(ranks)
        ]
        for process in self.processes:
            process.start()

    def kill(self) -> None:
        """End all processes as a power cut does."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            # Without a timeout, which would wait for loader workers too.
            process.join()
            assert process.exitcode == -9

    def join(self, timeout: float = 120) -> 'Forked':
        """Wait for the end; an error of a process is an error here."""
        self.wait(timeout)
        for error in self.errors:
            assert not error.exists(), error.read_text()
        assert [p.exitcode for p in self.processes] == [0] * len(
            self.processes
        )
        return self

    def wait(self, timeout: float = 120) -> list[str]:
        """Wait for the end and return the errors, by rank."""
        end = time.time() + timeout
        for process in self.processes:
            process.join(max(0.1, end - time.time()))
        hanging = [p for p in self.processes if p.is_alive()]
        for process in hanging:
            process.kill()
        assert not hanging, 'a process hangs'
        return [e.read_text() if e.exists() else '' for e in self.errors]


def _enter(
    function: Callable, rank: int, ranks: int, meeting: Path, error: Path
) -> None:
    """Join the group and call the function."""
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    # Without this gloo looks the host's name up, which can take long.
    os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    try:
        if ranks > 1:
            dist.init_process_group(
                'gloo',
                init_method=f'file://{meeting}',
                rank=rank,
                world_size=ranks,
            )
        function()
    except BaseException:
        error.write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)
