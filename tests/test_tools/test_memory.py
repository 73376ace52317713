# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Computed memory follows the formula and a measurement."""

import json
from pathlib import Path

import pytest
import torch

from dito.cli import memory
from dito.models.backbones import DITOViT
from dito.utils.memory_model import (
    Setting,
    parameter_count,
    step_memory,
    teacher_memory,
)


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'large', 'huge'])
def test_parameters_are_counted_right(arch: str) -> None:
    with torch.device('meta'):
        model = DITOViT(arch)
    assert parameter_count(arch) == sum(
        p.numel() for p in model.parameters())


def test_what_saves_memory_and_what_costs() -> None:
    plain = Setting('base', 2)
    peak = step_memory(plain)
    assert step_memory(Setting('base', 2, with_cp=True)) < 0.3 * peak
    assert 1.8 * peak < step_memory(Setting('base', 2, swl='batched')) < (
        2.1 * peak)
    for cp in (False, True):
        batched, sequential = (step_memory(
            Setting('base', 2, with_cp=cp, swl=swl))
            for swl in ('batched', 'sequential'))
        assert sequential < batched
    assert 0.5 * peak < step_memory(Setting('base', 2, bf16=True)) < (
        0.7 * peak)
    assert teacher_memory(plain) < 0.25 * peak


@pytest.mark.parametrize('with_cp,swl', [(False, 'none'),
                                         (True, 'sequential')])
def test_computed_is_within_a_tenth_of_measured(with_cp: bool,
                                                swl: str) -> None:
    setting = Setting('tiny', 1, 256, with_cp, swl)
    measured = memory.measure(setting)
    assert step_memory(setting) == pytest.approx(measured, rel=0.1)


def test_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'rows.json'
    assert memory.main(['--arch', 'small', 'large', '--batch', '1', '4',
                        '--json', str(path)]) == 0
    rows = json.loads(path.read_text())
    assert len(rows) == 2 * 2 * 2 * 3
    assert all(row['measured'] is None for row in rows)
    largest = max(rows, key=lambda row: row['computed'])
    assert (largest['arch'], largest['batch'], largest['with_cp']) == (
        'large', 4, False)
    shown = ' '.join(capsys.readouterr().out.split())
    assert 'Training step of the backbone at 1024 x 1024' in shown
