# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A run that is killed and resumed is the run that was never killed."""

import io
import time
from pathlib import Path

import pytest
from mmdet.registry import DATASETS
from training_runs import (
    Forked,
    comparable,
    differences,
    records,
    train,
    training_cfg,
    write_symbols,
)

from dito.datasets.image_text import tar_reader
from dito.datasets.image_text.streams import ShardStream

ITERS = 12
DDP = dict(
    launcher='pytorch',
    cfg=dict(
        model_wrapper_cfg=dict(
            type='MMDistributedDataParallel', device_ids=None
        )
    ),
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('shards')
    return root, write_symbols(root)


def kill_at(folder, cfg, iteration, ranks=1):
    """Start a training and kill it once an iteration is recorded."""
    path = f'{folder}.jsonl'
    run = Forked(train, cfg, ranks=ranks, folder=folder.parent)
    end = time.time() + 100
    while not any(r['iter'] >= iteration for r in records(path)):
        assert time.time() < end and run.processes[0].is_alive()
        time.sleep(0.002)
    run.kill()


@pytest.mark.parametrize('workers,ranks', [(0, 1), (2, 1), (0, 2)])
def test_killed_twice(tmp_path, data, workers, ranks):
    folders = dict(straight=tmp_path / 'straight', killed=tmp_path / 'killed')

    def cfg(name, **changes):
        options = DDP if ranks > 1 else {}
        return training_cfg(
            *data,
            folders[name],
            train_dataloader__num_workers=workers,
            **options,
            **changes,
        )

    pause = dict(
        default_hooks__record=dict(
            type='RunRecorder', path=f'{folders["killed"]}.jsonl', pause=0.05
        )
    )
    Forked(train, cfg('straight'), ranks=ranks, folder=tmp_path).join()
    kill_at(folders['killed'], cfg('killed', **pause), 4, ranks)
    assert (folders['killed'] / 'iter_3.pth').is_file()
    kill_at(folders['killed'], cfg('killed', resume=True, **pause), 7, ranks)
    Forked(
        train, cfg('killed', resume=True), ranks=ranks, folder=tmp_path
    ).join()

    assert not differences(*(comparable(f, ITERS) for f in folders.values()))
    for rank in range(ranks):
        straight, killed = (
            records(f'{f}.jsonl', rank) for f in folders.values()
        )
        assert [r['iter'] for r in straight] == list(range(ITERS))
        assert len(killed) > ITERS  # some steps were trained twice
        seen = [r['iter'] for r in killed]
        assert sorted(set(seen)) == list(range(ITERS)) and 0 < seen.count(3)
        for record in killed:
            assert record == straight[record['iter']]


def consumed(path, ranks):
    """Keys in the order of training, each iteration as one process has it."""
    steps = [records(path, rank) for rank in range(ranks)]
    return [
        key
        for parts in zip(*steps, strict=True)
        for row in zip(*(p['keys'] for p in parts), strict=True)
        for key in row
    ]


class CountedFile(io.FileIO):
    """A file that counts the bytes read from it."""

    count = 0

    def read(self, size=-1):
        data = super().read(size)
        CountedFile.count += len(data)
        return data


def test_other_numbers_of_workers_and_processes(tmp_path, data):
    """Each stream goes on where it was; nothing is read again."""
    root, captions = data
    folder, path = tmp_path / 'run', tmp_path / 'run.jsonl'
    keys = []
    for stop, workers, ranks in ((3, 0, 1), (5, 2, 1), (9, 0, 2), (12, 4, 1)):
        options = DDP if ranks > 1 else {}
        cfg = training_cfg(
            root,
            captions,
            folder,
            resume=True,
            train_dataloader__num_workers=workers,
            train_dataloader__batch_size=6 // ranks,
            train_cfg__max_iters=stop,
            custom_hooks=[],
            **options,
        )
        Forked(train, cfg, ranks=ranks, folder=tmp_path).join()
        keys += consumed(path, ranks)
        for rank in range(ranks):
            Path(f'{path}.{rank}').unlink()
    assert len(keys) == 12 * 6

    train_set = DATASETS.build(dict(cfg['train_dataloader']['dataset']))
    prefixes = train_set.sources[0].prefixes
    total = 0
    for stream in range(4):
        order = [
            prefixes[here.shard] + sample.key
            for _, sample, here in ShardStream(
                train_set.plans[0], stream, epochs=1
            )
        ]
        own = [key for key in keys if key in set(order)]
        assert own == order[: len(own)]
        total += len(own)
    assert total == len(keys)


@pytest.mark.parametrize('position', [0, 24])
def test_a_resume_reads_no_data_of_consumed_samples(
    tmp_path, data, monkeypatch, position
):
    """Of a shard in use only the headers before the place are read."""
    root, _ = data
    shard = root / '00.tar'
    monkeypatch.setattr(tar_reader, 'open_shard', CountedFile)
    CountedFile.count = 0
    rest = list(tar_reader.read_shard(str(shard), position))
    assert len(rest) == 30 - position
    headers = 512 * 3 * 30  # image, caption and description of each sample
    content = sum(len(v) for s in rest for v in s.parts.values())
    assert content < CountedFile.count < content + 2 * headers + 10240
    if position:
        assert CountedFile.count < shard.stat().st_size / 2
