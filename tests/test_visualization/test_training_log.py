# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of the reading of work folders."""

import json
from pathlib import Path

import pytest

from dito.reports.logs import read_stage_log, stage_files


def write_run(folder: Path, name: str, lines: list) -> None:
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(
        '\n'.join(
            line if isinstance(line, str) else json.dumps(line)
            for line in lines
        )
    )


def test_resumed_runs_are_one_log(tmp_path: Path):
    write_run(
        tmp_path,
        '20260101_000000',
        [
            dict(step=10, loss=3.0, loss_cls=2.0),
            dict(step=20, loss=2.0, loss_cls=9.0),
            '{"step": 30, "lo',
        ],
    )
    write_run(
        tmp_path,
        '20260101_000100',
        [
            dict(step=20, loss=2.0, loss_cls=1.0),
            {'step': 20, 'lvis/bbox_AP': 0.1},
            dict(step=30, loss=1.0, loss_cls=0.5),
        ],
    )
    log = read_stage_log(tmp_path, 'training')
    assert log.curve('loss_cls') == [(10.0, 2.0), (20.0, 1.0), (30.0, 0.5)]
    assert log.keys('loss_') == ['loss_cls']
    assert log.curve('lvis/bbox_AP') == []


def test_no_log(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match='holds no log'):
        read_stage_log(tmp_path, 'training')


def test_stage_files(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match='has no config'):
        stage_files(tmp_path)
    config = tmp_path / 'a.py'
    config.write_text('')
    with pytest.raises(FileNotFoundError, match='has no last_checkpoint'):
        stage_files(tmp_path)
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/iter_9.pth\n')
    with pytest.raises(FileNotFoundError, match='/elsewhere/iter_9.pth'):
        stage_files(tmp_path)
    weights = tmp_path / 'iter_9.pth'
    weights.write_bytes(b'')
    assert stage_files(tmp_path) == (config, weights)
    (tmp_path / 'b.py').write_text('')
    with pytest.raises(ValueError, match='several configs'):
        stage_files(tmp_path)
