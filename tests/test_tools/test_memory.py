# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Computed memory follows the formula and a measurement."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from benchmark_cases import Case
from benchmark_towers import pair_config, pair_model
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper

from dito.cli import memory
from dito.cli import memory as head_memory
from dito.cli.memory import (
    Setting,
    parameter_count,
    pretraining_memory,
    step_memory,
    teacher_memory,
    tower_memory,
)
from dito.engine.loops.cached_step import cached_train_step
from dito.models.backbones import DITOViT


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'large', 'huge'])
def test_parameters_are_counted_right(arch: str) -> None:
    with torch.device('meta'):
        model = DITOViT(arch)
    assert parameter_count(arch) == sum(p.numel() for p in model.parameters())


def test_what_saves_memory_and_what_costs() -> None:
    plain = Setting('base', 2)
    peak = step_memory(plain)
    assert step_memory(Setting('base', 2, with_cp=True)) < 0.3 * peak
    assert (
        1.8 * peak
        < step_memory(Setting('base', 2, swl='batched'))
        < (2.1 * peak)
    )
    for cp in (False, True):
        batched, sequential = (
            step_memory(Setting('base', 2, with_cp=cp, swl=swl))
            for swl in ('batched', 'sequential')
        )
        assert sequential < batched
    assert (
        0.5 * peak < step_memory(Setting('base', 2, bf16=True)) < (0.7 * peak)
    )
    assert teacher_memory(plain) < 0.25 * peak


@pytest.mark.parametrize(
    'with_cp,swl', [(False, 'none'), (True, 'sequential')]
)
def test_computed_is_within_a_tenth_of_measured(
    with_cp: bool, swl: str
) -> None:
    setting = Setting('tiny', 1, 256, with_cp, swl)
    measured = memory.measure(setting)
    assert step_memory(setting) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize('with_rois', [True, False])
def test_heads_keep_what_is_allocated(
    with_rois: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real pass: what is there after the forward pass was kept by it."""
    cfg = head_memory.detector_config('tiny')
    cfg.train_cfg.rcnn.sampler.num = 16 if with_rois else 0
    monkeypatch.setattr(head_memory, 'detector_config', lambda arch: cfg)
    neck, rpn, box, mask = (
        MODELS.build(part)
        for part in (
            cfg.neck,
            cfg.rpn_head,
            cfg.roi_head.bbox_head,
            cfg.roi_head.mask_head,
        )
    )
    feat = torch.randn(1, 192, 16, 16, requires_grad=True)
    outputs = []

    def run() -> None:
        crops = [
            torch.randn(n, 256, s, s, requires_grad=True)
            for n, s in ((16, 7), (4, 14))
        ]
        outputs.append(rpn(neck((feat,))))
        if with_rois:
            outputs.extend([box.regions(crops[0]), mask(crops[1])])

    # The largest transient is a map of the pyramid, here 4 MiB of float32.
    measured = memory.peak_of(run)
    assert head_memory.head_memory('tiny', 1, 256) == pytest.approx(
        measured, rel=0.15
    )


@pytest.mark.parametrize('pieces', [1, 3])
@pytest.mark.parametrize(
    'case',
    [Case('stage 1', 'symbols', 64, 8), Case('stage 2', 'symbols', 64, 2)],
    ids=lambda case: case.stage,
)
def test_a_step_of_pretraining_takes_what_is_said(
    case: Case, pieces: int
) -> None:
    model, batch = pair_model(replace(case, batch=pieces * case.batch))
    # Keeps nothing, and changes weights without a copy.
    sgd = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    wrapper = build_optim_wrapper(model.train(), sgd)

    def run() -> None:
        if pieces > 1:
            cached_train_step(model, batch, wrapper, case.batch)
        else:
            model.train_step(batch, wrapper)

    run()
    longest = int(batch['tokens'].argmax(dim=-1).max()) + 1
    said = pretraining_memory(
        pair_config(case), case.batch, 64, pieces=pieces, tokens=longest
    )
    assert said == pytest.approx(memory.peak_of(run), rel=0.05)


def test_configs_of_all_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'rows.json'
    names = [f'symbols/{n}_symbols.py' for n in ('clip', 'rep', 'dito')]
    more = ['--batch', '1', '2', '--img-size', '64', '--json', str(path)]
    assert memory.main([*names, *more]) == 0
    rows = json.loads(path.read_text())
    assert [row['config'] for row in rows] == [n for n in names for _ in '12']
    shown = ' '.join(capsys.readouterr().out.split())
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert one['step'] < two['step'] < 2 * one['step']
        assert one['weights'] == two['weights'] > 0
        total = two['step'] + two['weights'] + two['state']
        assert f'{total:,.0f}' in shown
    # The frozen towers of stage 2 and the teacher of stage 3 have no state.
    states = [row['state'] / row['weights'] for row in rows[::2]]
    assert states[0] == pytest.approx(2, abs=0.01)
    assert states[1] < 1.5 and states[2] < 1.5


def test_a_frozen_backbone_has_no_backward_pass() -> None:
    build = partial(DITOViT, 'tiny')
    frozen = tower_memory(lambda: build().requires_grad_(False), 1, 64)
    assert frozen == tower_memory(build, 1, 64, trained=False)
    assert frozen < tower_memory(build, 1, 64)


@pytest.mark.parametrize(
    'name,reason',
    [
        ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'no model of DITO'),
        ('dito_vitl_official_lvis', 'trains nothing'),
    ],
)
def test_configs_that_are_none_of_ours(
    name: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert memory.main([name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line and reason in line


def test_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'rows.json'
    assert (
        memory.main(
            [
                '--arch',
                'tiny',
                '--batch',
                '1',
                '4',
                '--json',
                str(path),
            ]
        )
        == 0
    )
    rows = json.loads(path.read_text())
    assert len(rows) == 2 * 2 * 3
    assert all(row['measured'] is None for row in rows)
    largest = max(rows, key=lambda row: row['computed'])
    assert (largest['batch'], largest['with_cp']) == (4, False)
    shown = ' '.join(capsys.readouterr().out.split())
    assert 'Training step at 1024 x 1024' in shown
    # Pyramid and heads: per image, whatever the tower's passes.
    heads = {(r['arch'], r['batch'], r['heads']) for r in rows}
    assert len(heads) == 2
    one, four = (
        next(h for a, b, h in heads if (a, b) == ('tiny', n)) for n in (1, 4)
    )
    assert 3.9 * one < four < 4 * one
