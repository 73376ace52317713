# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import json

import benchmark_contrastive as tool
import pytest

SMALL = [
    '--img-size',
    '32',
    '--text',
    '32',
    '1',
    '2',
    '--batch',
    '4',
    '--words',
    '3',
    '--repeat',
    '1',
]


def test_time_against_open_clip(capsys):
    assert tool.main(['time', *SMALL]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    seconds = result['seconds']
    assert result['ratio'] == seconds['open_clip'] / seconds['dito'] > 0
    assert result['batch'] == 4 and result['arch'] == 'tiny'


def test_memory_of_one_step_in_its_own_process():
    args = tool.parse_args(['memory', *SMALL])
    assert 1 < tool.peak_memory(args, 2, 1) < 4000


def test_memory_by_micro_batch_and_by_batch(monkeypatch):
    # Activations grow with the micro-batch, embeddings with the batch.
    monkeypatch.setattr(
        tool,
        'peak_memory',
        lambda args, batch, micro: 100.0 + 10 * micro + 0.1 * batch,
    )
    args = tool.parse_args(
        ['memory', *SMALL, '--micro-batches', '4', '1', '8']
    )
    result = tool.run(args)
    assert result['mib_by_micro_batch'] == {1: 110.4, 4: 140.4}
    assert result['mib_by_batch'] == {4: 110.4, 8: 110.8, 16: 111.6}
    assert result['saved'] == 140.4 / 110.4
    assert result['growth'] == 111.6 / 110.4


def test_bf16_step_runs():
    args = tool.parse_args(['time', *SMALL, '--bf16', '--with-cp'])
    step = tool.our_step(args, tool.build_ours(args), 4, micro_batch=3)
    assert step()['loss'] > 0
    tool.open_clip_step(args)()


def test_mistakes_are_one_sentence(capsys):
    with pytest.raises(SystemExit, match='2'):
        tool.main(['memory', *SMALL, '--micro-batches', '8'])
    assert 'is within --batch 4' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        tool.main(['time', '--batch', '0'])
