# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Runs that are asked to end, two runs in one folder, full disks."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any, List

import pytest
from training_runs import comparable, differences, free_port, records

from dito.cli import train as train_tool
from dito.datasets.symbols import SymbolsConfig, build_symbols
from dito.utils import run_lock
from dito.utils.config_finder import config_root
from dito.utils.resumable import find_resumable

_FORK = multiprocessing.get_context('fork')
ITERS = 6
TOWERS = config_root() / 'symbols' / 'assets' / 'clip_symbols.safetensors'
# Configs of one's own, as docs/config.md has them.
COMMON = """
_base_ = 'dito::symbols/{stage}_symbols.py'
load_from = {start!r}
custom_imports = dict(imports=['dito', 'training_runs'])
train_cfg = dict(max_iters={iters}, val_interval=100)
default_hooks = dict(
    checkpoint=dict(interval=100),
    logger=dict(interval=1),
    iteration_seed=dict(type='DITOIterationSeedHook'),
    record=dict(type='RunRecorder', path={record!r}))
"""
PAIRS = """
train_dataloader = dict(
    batch_size=4, num_workers={workers}, persistent_workers={workers} > 0,
    dataset=dict(shards='{data}/image_text/{shards}-000000.tar'))
val_dataloader = dict(dataset=dict(shards='{data}/image_text/val-000000.tar'))
"""
CLIP = PAIRS.rsplit('val_dataloader', 1)[0] + """
val_dataloader = dict(_delete_=True)
val_dataloader = val_cfg = val_evaluator = None
custom_hooks = []
default_hooks['checkpoint'].update(save_best=None)
"""
DETECTION = """
train_dataloader = dict(
    batch_size=2, num_workers={workers}, persistent_workers={workers} > 0,
    dataset=dict(data_root='{data}/'))
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(
        data_root='{data}/'))
val_evaluator = dict(ann_file='{data}/annotations/val.json')
model = dict(teacher=dict(checkpoint=load_from), train_cfg=dict(
    rpn_proposal=dict(nms_pre=100, max_per_img=50)))
custom_hooks = [
    dict(type='DITOVocabularyHook', templates=['a photo of a {{}}.']),
    dict(type='DITOLoadReportHook', allowed_missing=[
        'neck', 'rpn_head', 'roi_head'])]
"""
STAGES = dict(clip=CLIP, rep=PAIRS, dito=DETECTION)
SHARDS = dict(clip='single', rep='lone', dito='')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small symbols data set."""
    root = tmp_path_factory.mktemp('symbols')
    build_symbols(str(root), SymbolsConfig(
        train_images=12, val_images=4, size=64, single_shards=1,
        scene_shards=0, lone_shards=1, shard_size=40, retrieval_images=8,
        zero_shot_images=0))
    return root


class Training:
    """``tools/train.py`` in processes of its own."""

    def __init__(self, config: Path, *argv: str, ranks: int = 1) -> None:
        argv = (str(config), '--work-dir', str(config.with_suffix('')), *argv)
        port = free_port()
        self.processes = [
            _FORK.Process(target=_train, args=(argv, rank, ranks, port))
            for rank in range(ranks)]
        for process in self.processes:
            process.start()

    def send(self, number: int, rank: int = 0) -> None:
        """Send a signal to one process."""
        os.kill(self.processes[rank].pid, number)

    def end(self, timeout: float = 120) -> List[int]:
        """Wait for the end and give the exit codes."""
        for process in self.processes:
            process.join(timeout)
            assert process.exitcode is not None, 'hangs'
        return [process.exitcode for process in self.processes]


def _train(argv: Any, rank: int, ranks: int, port: str) -> None:
    code = 99
    try:
        if ranks > 1:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks),
                MASTER_ADDR='127.0.0.1', MASTER_PORT=port,
                GLOO_SOCKET_IFNAME='lo')
            argv = (*argv, '--launcher', 'pytorch')
        code = train_tool.main(argv)
    finally:
        os._exit(code)


def own_config(folder: Path, name: str, data: Path, stage: str,
               workers: int = 0, more: str = '') -> Path:
    """Write a config that inherits a stage of symbols."""
    path = folder / f'{name}.py'
    text = (COMMON + STAGES[stage]).format(
        stage=stage, start=None if stage == 'clip' else str(TOWERS),
        iters=ITERS, record=str(folder / name), data=data, workers=workers,
        shards=SHARDS[stage])
    path.write_text(text + more)
    return path


PAUSE = "default_hooks['record'].update(pause=0.1)\n"


def wait_for(record: Path, iteration: int, run: Training) -> None:
    """Wait until an iteration is recorded."""
    end = time.time() + 100
    while not any(r['iter'] >= iteration for r in records(record)):
        assert time.time() < end and run.processes[0].is_alive()
        time.sleep(0.01)


@pytest.mark.parametrize('stage,workers,ranks,number', [
    ('clip', 0, 1, signal.SIGTERM), ('rep', 1, 1, signal.SIGINT),
    ('dito', 1, 1, signal.SIGTERM), ('dito', 0, 2, signal.SIGINT),
    ('rep', 0, 2, signal.SIGTERM)])
def test_asked_to_end(tmp_path: Path, data: Path, stage: str, workers: int,
                      ranks: int, number: int) -> None:
    """The run and its continuation are the run that was left alone."""
    straight = own_config(tmp_path, 'straight', data, stage, workers)
    assert Training(straight, ranks=ranks).end() == [0] * ranks
    asked = own_config(tmp_path, 'asked', data, stage, workers, PAUSE)
    run = Training(asked, ranks=ranks)
    wait_for(tmp_path / 'asked', 2, run)
    run.send(number, ranks - 1)  # one of them alone
    run.send(number, ranks - 1)  # and maybe twice
    assert run.end() == [75] * ranks
    folder = tmp_path / 'asked'
    stopped = find_resumable(folder)
    step = int(stopped.stem.rpartition('_')[2])
    assert 3 <= step < ITERS
    assert len(records(folder)) == step
    assert not (folder / run_lock.RUNNING).exists()

    assert Training(asked, '--resume', ranks=ranks).end() == [0] * ranks
    for rank in range(ranks):
        assert records(folder, rank) == records(tmp_path / 'straight', rank)
    ends = [comparable(tmp_path / name, ITERS)
            for name in ('straight', 'asked')]
    for end in ends:  # one has written a checkpoint more
        end['message_hub']['runtime_info'].pop('keep_ckpt_ids')
    assert not differences(*ends)
