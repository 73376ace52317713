# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What a process loads of a step, and how much of it is in memory."""

import pickle

import pytest
import torch
from mmengine.runner import Runner
from pretrain_files import clip_model, runner_cfg, write_data
from torch.utils.data import DataLoader

from dito.datasets.image_text import ImageTextShards
from dito.engine.loops import pair_loading
from dito.engine.loops import pair_loading as free_memory
from dito.engine.loops.pair_loading import (
    read_share,
    turn_of,
    warn_of_memory,
)
from dito.engine.loops.whole_batch import MICRO_BATCHES, plan_batch


@pytest.mark.parametrize(
    'total,turn',
    [
        (16384, 512),
        (4096, 512),
        (3000, 600),
        (153, 153),
        (17, 17),
        (1021, 1021),
    ],
)
def test_turns_do_not_follow_the_processes(total, turn):
    for processes in range(1, 65):
        if total % processes == 0:
            assert turn_of(total, processes) == turn


def test_turns_of_very_many_processes():
    assert turn_of(16384, 256) == 512
    assert turn_of(16384, 4096) == 4096


def piece(first, size=2):
    return dict(
        inputs=torch.arange(first, first + size)[:, None].byte(),
        cursors=torch.full((size, 4), first),
        texts=[str(i) for i in range(first, first + size)],
    )


def test_a_share_in_turns():
    batches = iter([piece(0), piece(2), piece(4), piece(6), piece(8)])
    share = read_share(batches, 2)
    assert share['inputs'].flatten().tolist() == [0, 1, 2, 3]
    assert share['cursors'][:, 0].tolist() == [0, 0, 2, 2]
    assert share['texts'] == ['0', '1', '2', '3'] and 'filled' not in share
    assert read_share(batches, 2)['texts'] == ['4', '5', '6', '7']
    assert read_share(batches, 2) is None  # the data end within a step
    assert read_share(iter([piece(0), piece(2, size=1)]), 2) is None


@pytest.fixture
def data(tmp_path):
    """80 pairs in four shards."""
    write_data(tmp_path)
    return tmp_path


def config(data, total, name='work', **changes):
    cfg = runner_cfg(data, data / name, clip_model(), max_iters=1, **changes)
    cfg['train_cfg']['total_batch_size'] = total
    return cfg


@pytest.mark.parametrize('workers', [0, 2])
def test_loader_and_step_hold_few_pictures(data, monkeypatch, workers):
    """Workers make 8 pairs at a time; a tower sees 4 of the 64."""
    monkeypatch.setattr(pair_loading, '_TURN', 8)
    monkeypatch.setattr(pair_loading, '_PROCESSES', 8)
    runner = Runner(**config(data, 64, batch_size=4, num_workers=workers))
    loop = runner.train_loop
    assert loop.dataloader.batch_size == 8 and loop.turns == 8
    seen = []
    runner.model.data_preprocessor.register_forward_pre_hook(
        lambda module, args: seen.append(len(args[0]['inputs']))
    )
    runner.train()
    # Without gradient, then with it.
    assert seen == [4] * 16 * 2


@pytest.mark.parametrize('pairs', [80, 20])
def test_data_smaller_than_the_batch(data, pairs):
    """No pair twice in a batch: a step takes those there are, and says so."""
    cfg = config(data, 4096, batch_size=32)
    dataset = cfg['train_dataloader']['dataset']
    if pairs == 20:
        dataset['shards'] = str(data / '00.tar')
    keys = []
    runner = Runner(**cfg)
    runner.model.data_preprocessor.register_forward_pre_hook(
        lambda module, args: keys.extend(args[0]['keys'])
    )
    runner.train()
    assert runner.train_loop.plan.total == pairs
    # Micro-batches are embedded twice.
    assert len(keys) == (pairs if pairs == 20 else 2 * pairs)
    assert len(set(keys)) == pairs
    text = next((data / 'work').glob('*/*.log')).read_text()
    assert (
        f'The {pairs} pairs of train_dataloader.dataset do not fill a '
        'batch of 4096'
    ) in text
    assert f'a step takes {pairs}' in text and '--auto-scale-lr' in text


def test_data_that_fill_the_batch(data):
    runner = Runner(**config(data, 80))
    assert runner.train_loop.plan.total == 80
    log = next((data / 'work').glob('*/*.log')).read_text()
    assert 'do not fill' not in log


def test_pairs_are_counted_up_to_the_batch(data, monkeypatch):
    shards = [str(data / '00.tar'), str(data / '01.tar')]
    dataset = ImageTextShards(shards, 16)
    assert dataset.count_pairs(64) == 40
    assert dataset.count_pairs(40) == 40 and dataset.count_pairs(23) == 23
    # What is not local is not read twice.
    assert ImageTextShards(f'pipe:cat {shards[0]}', 16).count_pairs(64) == 64
    monkeypatch.setattr(ImageTextShards, 'count_pairs', lambda self, n: 1)
    with pytest.raises(ValueError, match='holds 1 pairs: a step needs at'):
        Runner(**config(data, 64)).train_loop  # noqa: B018


def small_loader(data, **kwargs):
    return DataLoader(
        ImageTextShards(str(data / '00.tar'), 100, num_streams=4), **kwargs
    )


def test_missing_memory_is_named(data, monkeypatch):
    """64 pictures of 30,000 bytes, those of the loader, and the matrix."""
    lines = []
    monkeypatch.setattr(
        pair_loading, 'print_log', lambda text, **kwargs: lines.append(text)
    )
    plan = plan_batch(64, 1, 4, MICRO_BATCHES)
    model = torch.nn.Linear(1, 1)
    model.loss = torch.nn.Module()
    model.loss.row_chunk = None
    need = 64 * 30000 + 8 * 30000 + 4 * 4 * 64 * 64
    for free in (None, need, need // 2 - 1):
        monkeypatch.setattr(pair_loading, 'free_memory', lambda f=free: f)
        warn_of_memory(plan, small_loader(data, batch_size=8), model)
    (text,) = lines
    assert f'needs about {need / 1e9:.1f} GB' in text
    assert 'train_cfg.total_batch_size=16 and --auto-scale-lr' in text
    # Two workers with two batches each, and one that is being stacked.
    monkeypatch.setattr(pair_loading, 'free_memory', lambda: need)
    warn_of_memory(
        plan, small_loader(data, batch_size=8, num_workers=2), model
    )
    assert len(lines) == 2


def test_free_memory(tmp_path, monkeypatch):
    assert free_memory.free_memory() > 2**20
    (tmp_path / 'meminfo').write_text(
        'MemTotal: 9 kB\nMemAvailable:     4 kB\n'
    )
    (tmp_path / 'max').write_text('3000\n')
    (tmp_path / 'now').write_text('1000\n')
    (tmp_path / 'none').write_text('max\n')
    monkeypatch.setattr(free_memory, '_MEMINFO', tmp_path / 'meminfo')
    for limit, free in (('max', 2000), ('none', 4096), ('absent', 4096)):
        monkeypatch.setattr(
            free_memory, '_CGROUPS', ((tmp_path / limit, tmp_path / 'now'),)
        )
        assert free_memory.free_memory() == free
    monkeypatch.setattr(free_memory, '_MEMINFO', tmp_path / 'absent')
    assert free_memory.free_memory() is None


def test_the_workers_tokenise(data, monkeypatch):
    runner = Runner(**config(data, 8, num_workers=1))
    tower = runner.model.text_encoder
    expected = tower.tokenize(['a red cat'])
    monkeypatch.setattr(
        type(tower), 'tokenize', lambda *_: pytest.fail('in the step')
    )
    runner.train()
    loader = runner.train_loop.dataloader
    collate = loader.collate_fn
    tokenizer = pickle.loads(pickle.dumps(collate.tokenizer))
    assert torch.equal(tokenizer(['a red cat']), expected)
    pair_loading.tokenize_in_workers(loader, runner.model)
    assert loader.collate_fn.collate is collate.collate
