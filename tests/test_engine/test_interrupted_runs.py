# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Runs that are asked to end, two runs in one folder, full disks."""

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmdet.registry import HOOKS
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from training_runs import comparable, differences, free_port, records

from dito.cli import train as train_tool
from dito.datasets.symbols import SymbolsConfig, build_symbols
from dito.engine import work_folder as run_lock
from dito.engine.interruption import end_to_requeue
from dito.engine.work_folder import (
    find_resumable,
    resolve_resume,
    write_last,
)
from dito.utils.checkpoint import load_from_file
from dito.utils.configs import config_root

_FORK = multiprocessing.get_context('fork')
ITERS = 6
# More for docs/reliability.md: DITO_KILLS=10 pytest -k random -s THIS_FILE
KILLS = int(os.environ.get('DITO_KILLS', '2'))
KILL_SEED = os.environ.get('DITO_KILL_SEED', '0')
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
train_cfg.update(total_batch_size=4)
val_dataloader = dict(dataset=dict(shards='{data}/image_text/val-000000.tar'))
"""
CLIP = (
    PAIRS.rsplit('val_dataloader', 1)[0]
    + """
val_dataloader = dict(_delete_=True)
val_dataloader = val_cfg = val_evaluator = None
custom_hooks = []
default_hooks['checkpoint'].update(save_best=None)
"""
)
DETECTION = """
train_dataloader = dict(
    batch_size=2, num_workers={workers}, persistent_workers={workers} > 0,
    dataset=dict(data_root='{data}/'))
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(
        data_root='{data}/'))
val_evaluator = dict(ann_file='{data}/annotations/val.json')
train_cfg.update(total_batch_size=2)
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
    build_symbols(
        str(root),
        SymbolsConfig(
            train_images=12,
            val_images=4,
            size=64,
            single_shards=1,
            scene_shards=0,
            lone_shards=1,
            shard_size=40,
            retrieval_images=8,
            zero_shot_images=0,
        ),
    )
    return root


class Training:
    """``tools/train.py`` in processes of its own."""

    def __init__(self, config: Path, *argv: str, ranks: int = 1) -> None:
        argv = (str(config), '--work-dir', str(config.with_suffix('')), *argv)
        port = free_port()
        self.processes = [
            _FORK.Process(target=_train, args=(argv, rank, ranks, port))
            for rank in range(ranks)
        ]
        for process in self.processes:
            process.start()

    def send(self, number: int, rank: int = 0) -> None:
        """Send a signal to one process."""
        os.kill(self.processes[rank].pid, number)

    def end(self, timeout: float = 120) -> list[int]:
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
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(ranks),
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=port,
                GLOO_SOCKET_IFNAME='lo',
            )
            argv = (*argv, '--launcher', 'pytorch')
        code = train_tool.main(argv)
    finally:
        os._exit(code)


def own_config(
    folder: Path,
    name: str,
    data: Path,
    stage: str,
    workers: int = 0,
    more: str = '',
) -> Path:
    """Write a config that inherits a stage of symbols."""
    path = folder / f'{name}.py'
    text = (COMMON + STAGES[stage]).format(
        stage=stage,
        start=None if stage == 'clip' else str(TOWERS),
        iters=ITERS,
        record=str(folder / name),
        data=data,
        workers=workers,
        shards=SHARDS[stage],
    )
    path.write_text(text + more)
    return path


PAUSE = "default_hooks['record'].update(pause=0.1)\n"


def wait_for(
    record: Path, iteration: int, at_most: float | None = None
) -> None:
    """Wait until an iteration is recorded, or for some seconds at most."""
    end = time.time() + (at_most or 300)
    while not any(r['iter'] >= iteration for r in records(record)):
        if at_most and time.time() >= end:
            return
        assert time.time() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    'stage,workers,ranks,number',
    [
        ('clip', 0, 1, signal.SIGTERM),
        ('rep', 1, 1, signal.SIGUSR1),
        ('dito', 1, 1, signal.SIGTERM),
        ('dito', 0, 2, signal.SIGINT),
        ('rep', 0, 2, signal.SIGTERM),
    ],
)
def test_asked_to_end(
    tmp_path: Path,
    data: Path,
    stage: str,
    workers: int,
    ranks: int,
    number: int,
) -> None:
    """The run and its continuation are the run that was left alone."""
    straight = own_config(tmp_path, 'straight', data, stage, workers)
    assert Training(straight, ranks=ranks).end() == [0] * ranks
    asked = own_config(tmp_path, 'asked', data, stage, workers, PAUSE)
    run = Training(asked, ranks=ranks)
    wait_for(tmp_path / 'asked', 2)
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
    ends = [
        comparable(tmp_path / name, ITERS) for name in ('straight', 'asked')
    ]
    for end in ends:  # one has written a checkpoint more
        end['message_hub']['runtime_info'].pop('keep_ckpt_ids')
    assert not differences(*ends)


@pytest.mark.parametrize(
    'number', [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
)
def test_asked_to_end_before_it_begins(
    tmp_path: Path, data: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    os_ = "__import__('os')"
    config = own_config(
        tmp_path,
        'early',
        data,
        'clip',
        more=f'{os_}.kill({os_}.getpid(), {int(number)})\n',
    )
    assert Training(config).end() == [75]
    error = capfd.readouterr().err
    assert f'{number.name}: the training ends before' in error
    assert 'Traceback' not in error


def _sleep(ready: Any) -> None:
    ready.set()
    time.sleep(60)


def test_forked_processes_end_as_ever() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with end_to_requeue():
        ready = _FORK.Event()
        child = _FORK.Process(target=_sleep, args=(ready,))
        child.start()
        assert ready.wait(60)
        child.terminate()
        child.join(60)
        assert child.exitcode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize('stage', STAGES)
def test_killed_at_random_moments(
    tmp_path: Path, data: Path, stage: str
) -> None:
    """In starts, in steps and in the writing of checkpoints."""
    iters = KILLS + 4
    more = (
        f'train_cfg.update(max_iters={iters})\n'
        "default_hooks['checkpoint'].update(interval=1)\n"
    )
    rng = random.Random(f'{stage} {KILL_SEED}')
    straight = own_config(tmp_path, 'straight', data, stage, more=more)
    start = time.time()
    run = Training(straight)
    wait_for(tmp_path / 'straight', 0)
    to_first = time.time() - start
    assert run.end(600) == [0]
    killed = own_config(tmp_path, 'killed', data, stage, 1, more + PAUSE)
    for number in range(KILLS):
        run = Training(killed, '--resume')
        if rng.random() < 0.7:
            wait_for(tmp_path / 'killed', number)
            time.sleep(rng.uniform(0, 0.3))
        else:
            # A start may be far faster than that was: the run must not end.
            wait_for(
                tmp_path / 'killed', iters - 3, rng.uniform(0, 1.2 * to_first)
            )
        run.send(signal.SIGKILL)
        run.processes[0].join()
        assert run.processes[0].exitcode == -signal.SIGKILL
    assert Training(killed, '--resume').end(600) == [0]
    folders = tmp_path / 'straight', tmp_path / 'killed'
    assert not differences(*(comparable(f, iters) for f in folders))
    truth = {r['iter']: r for r in records(folders[0])}
    seen = records(folders[1])
    assert {r['iter'] for r in seen} == set(truth)
    assert [r for r in seen if r != truth[r['iter']]] == []
    print(f'{stage}: {KILLS} kills, {len(seen)} steps for {iters}, equal')


def test_the_script_for_several_processes(tmp_path: Path, data: Path) -> None:
    """Who starts it knows the script's process alone."""
    config = own_config(tmp_path, 'run', data, 'rep', more=PAUSE)
    root = Path(__file__).parents[2]
    script = subprocess.Popen(
        [
            root / 'tools' / 'dist_train.sh',
            config,
            '2',
            '--work-dir',
            tmp_path / 'run',
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            'PYTHON': sys.executable,
            'OMP_NUM_THREADS': '1',
            'PYTHONPATH': str(root / 'tests'),
            'GLOO_SOCKET_IFNAME': 'lo',
            'PORT': free_port(),
        },
    )
    wait_for(tmp_path / 'run', 2)
    script.send_signal(signal.SIGTERM)
    output, _ = script.communicate(timeout=120)
    assert script.returncode == 75, output
    assert 'Traceback' not in output
    assert find_resumable(tmp_path / 'run') is not None


VALIDATION = """
train_cfg.update(max_iters=4, val_interval=2)
custom_hooks = [
    *_base_.custom_hooks, dict(type='DITOEMAHook', momentum=0.2),
    dict(type='StopOnce', mark={mark!r})]
"""


@HOOKS.register_module()
class StopOnce(Hook):
    """Ask a validation to end, unless it was done before."""

    priority = 'HIGHEST'

    def __init__(self, mark: str) -> None:
        self.mark = Path(mark)

    def after_val_iter(self, *args: Any, **kwargs: Any) -> None:
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGTERM)


def test_asked_to_end_during_a_validation(tmp_path: Path, data: Path) -> None:
    """It is made up for, by the averages, before the run goes on."""
    marks = {name: tmp_path / f'{name}.mark' for name in ('a', 'b')}
    marks['a'].touch()
    configs = {
        name: own_config(
            tmp_path, name, data, 'rep', more=VALIDATION.format(mark=str(mark))
        )
        for name, mark in marks.items()
    }
    assert Training(configs['a']).end() == [0]
    assert Training(configs['b']).end() == [75]
    stopped = load_from_file(str(tmp_path / 'b' / 'iter_2.pth'))
    assert 'val/retrieval/i2t_R@1' not in stopped['message_hub']['log_scalars']
    assert Training(configs['b'], '--resume').end() == [0]
    ends = [comparable(tmp_path / name, 4) for name in 'ab']
    for end in ends:
        hub = end['message_hub']
        assert 'validation_due' not in hub['runtime_info']
        hub['runtime_info'].pop('keep_ckpt_ids')
    assert not differences(*ends)


def test_two_runs_in_one_folder(
    tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slow = PAUSE.replace('0.1', '2')
    config = own_config(tmp_path, 'run', data, 'clip', more=slow)
    first = Training(config)
    wait_for(tmp_path / 'run', 0)
    holder = json.loads((tmp_path / 'run' / run_lock.RUNNING).read_text())
    assert holder['pid'] == first.processes[0].pid
    files = sorted(tmp_path.rglob('*'))
    capfd.readouterr()
    assert Training(config).end() == [2]
    text = capfd.readouterr().err
    assert f'process {holder["pid"]} on {holder["host"]} trains' in text
    assert sorted(tmp_path.rglob('*')) == files
    first.processes[0].kill()
    first.processes[0].join()
    # The lock has ended with the process, whose file is still there.
    second = Training(own_config(tmp_path, 'run', data, 'clip'))
    assert second.end() == [0]
    assert not (tmp_path / 'run' / run_lock.RUNNING).exists()


@pytest.mark.parametrize('alive', [False, True])
def test_a_run_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    """Where machines do not see each other's locks, the beat tells."""
    monkeypatch.setattr(run_lock, 'BEAT_SECONDS', 0.2)
    file = tmp_path / run_lock.RUNNING
    file.write_text(json.dumps(dict(host='far', pid=7, since='then')))
    if not alive:
        run_lock.claim(tmp_path)
        assert json.loads(file.read_text())['pid'] == os.getpid()
        run_lock.release(tmp_path)
        assert not file.exists()
        return
    beat = _FORK.Process(target=_beat, args=(file,))
    beat.start()
    try:
        with pytest.raises(ValueError, match='process 7 on far trains'):
            run_lock.claim(tmp_path)
    finally:
        beat.kill()
    assert file.exists()


def _beat(file: Path) -> None:
    while True:
        os.utime(file)
        time.sleep(0.02)


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk(
    tmp_path: Path,
    data: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    put = LocalBackend.put

    def full(self: Any, obj: bytes, filepath: Any) -> None:
        if 'iter_4' not in str(filepath):
            return put(self, obj, filepath)
        put(self, obj[:1000], filepath)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(LocalBackend, 'put', full)
    config = own_config(
        tmp_path,
        'run',
        data,
        'clip',
        more="default_hooks['checkpoint'].update(interval=2)\n",
    )
    assert Training(config).end() == [2]
    folder = tmp_path / 'run'
    text = capfd.readouterr().err
    assert f'error: {folder / "iter_4.pth"} could not be written' in text
    assert f'the last one stays {folder / "iter_2.pth"}' in text
    assert sorted(p.name for p in folder.glob('*iter*')) == ['iter_2.pth']
    assert find_resumable(folder) == folder / 'iter_2.pth'
    monkeypatch.undo()
    assert Training(config, '--resume').end() == [0]


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'\n',
        b'\xff\xfe\0',
        bytes(4096),
        b'a' * 5000,
        b'.',
        b'/tmp/',
        b'iter_3.pth',
        b'best_x_iter_9.pth',
        b'https://x.org/iter_9.pth',
        b'/nowhere/iter_4.pth\niter_9.pth',
    ],
)
def test_last_checkpoint_says_nothing(tmp_path: Path, content: bytes) -> None:
    torch.save(dict(x=torch.ones(3)), tmp_path / 'iter_3.pth')
    (tmp_path / 'last_checkpoint').write_bytes(content)
    assert find_resumable(tmp_path) == tmp_path / 'iter_3.pth'
    runner = SimpleNamespace(
        _resume=True, _load_from=None, work_dir=str(tmp_path)
    )
    resolve_resume(runner)
    assert runner._load_from == str(tmp_path / 'iter_3.pth')


@pytest.mark.parametrize(
    'own,elsewhere,wanted',
    [
        (['iter_3', 'iter_6'], ['iter_3', 'iter_6'], 'own/iter_6'),
        (['iter_3'], ['iter_3', 'iter_6'], 'own/iter_3'),
        (['iter_3'], [], 'own/iter_3'),
        ([], ['iter_3', 'iter_6'], 'elsewhere/iter_6'),
    ],
)
def test_last_checkpoint_points_elsewhere(
    tmp_path: Path, own: list, elsewhere: list, wanted: str
) -> None:
    """A folder that was copied or moved has its own checkpoints."""
    for folder, names in (('own', own), ('elsewhere', elsewhere)):
        (tmp_path / folder).mkdir()
        for name in names:
            torch.save(
                dict(x=torch.ones(3)), tmp_path / folder / f'{name}.pth'
            )
    write_last(tmp_path / 'own', str(tmp_path / 'elsewhere' / 'iter_6.pth'))
    assert find_resumable(tmp_path / 'own') == tmp_path / f'{wanted}.pth'
