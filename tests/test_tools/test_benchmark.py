# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The benchmark at a tiny size, its comparison and its pages."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark as tool
import benchmark_cases as cases
import benchmark_sides as sides
import pytest
import torch
from benchmark_cases import Case, Setup, Worker
from benchmark_towers import vit_sam
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dito.cli.memory import Setting

DOCS = Path(__file__).parents[2] / 'docs' / 'benchmarks'
CPU = Setup('cpu', bf16=False)


class Here:
    """Measures in this process, which has imported everything."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def measure(self, case: Case, seconds: float) -> list[dict]:
        return cases.measure(case, self.setup)

    def close(self) -> None:
        """Nothing was started."""


@pytest.fixture(scope='module')
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figures of the tiny profile."""
    path = tmp_path_factory.mktemp('benchmark') / 'new.json'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, 'Worker', Here)
        page = path.with_suffix('.md')
        args = ['--profile', 'tiny', '--device', 'cpu', '--threads', '1']
        assert (
            tool.main([*args, '--json', str(path), '--page', str(page)]) == 0
        )
    return path


def changed(path: Path, change: Callable[[dict], Any]) -> str:
    """File of the same figures after a change."""
    content = json.loads(path.read_text())
    change(content)
    other = path.with_name('other.json')
    other.write_text(json.dumps(content))
    return str(other)


def test_figures(measured: Path) -> None:
    result = json.loads(measured.read_text())
    assert result['profile'] == 'tiny' and result['threads'] == 1
    assert torch.__version__.startswith(result['versions']['torch'])
    rows = {(row['stage'], row['part']): row for row in result['rows']}
    assert set(rows) == {
        *(
            (s, p)
            for s in ('backbone', 'stage 1')
            for p in ('forward', 'train')
        ),
        ('stage 3', 'forward'),
        ('stage 3', 'train'),
        ('loader', 'load'),
    }
    for (stage, part), row in rows.items():
        assert row['status'] == 'done'
        assert row['images_per_second'] == row['batch'] / row['seconds'] > 0
        if stage != 'stage 3':
            assert row['ratio'] > 0 and row['peer_seconds'] > 0
        if stage == 'loader':
            continue
        # A turn of one process: the share is that of this very rate.
        share = row['tflop'] / row['seconds'] / row['matrix_tflops']
        assert row['share'] == pytest.approx(share)
        assert ('memory_mib' in row) == (part == 'train')
    for stage in ('backbone', 'stage 3'):
        train = rows[stage, 'train']
        assert train['memory_mib'] == pytest.approx(
            train['memory_said_mib'], rel=0.2
        )
        assert train['memory_ratio'] == pytest.approx(1, rel=0.2)


def test_page_of_figures(measured: Path) -> None:
    page = measured.with_suffix('.md').read_text()
    assert page == tool.page(json.loads(measured.read_text()))
    assert page.count('| backbone, tiny, 64 px, batch 1 |') == 2
    assert 'open_clip' in page and 'ViTSAM of mmpretrain' in page


def test_equal_ratios_pass(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = changed(measured, lambda result: None)
    assert tool.main(['--read', same, '--check', str(measured)]) == 0
    assert '0 ratios differ by more than 30%' in capsys.readouterr().out


def test_a_changed_ratio_is_found(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def slower(result: dict) -> None:
        row = result['rows'][0]
        row['ratio'] *= 0.5

    args = ['--read', changed(measured, slower), '--check', str(measured)]
    assert tool.main(args) == 1
    out = capsys.readouterr().out
    assert 'backbone, tiny, 64 px, batch 1, forward: ratio is ' in out
    assert '1 ratios differ' in out
    assert tool.main([*args, '--tolerance', '0.6']) == 0


def test_what_is_not_measured_any_more_is_found(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(result: dict) -> None:
        first = result['rows'][0]
        case = tool.PROFILES['tiny'][0]
        assert case.name == first['name']
        row = cases.empty_row(case, 'out of memory')
        result['rows'] = [row, *result['rows'][2:]]
        del result['rows'][1]['ratio']

    args = ['--read', changed(measured, gone), '--check', str(measured)]
    assert tool.main(args) == 1
    out = capsys.readouterr().out
    assert out.count('measured before, now out of memory') == 2
    assert 'forward: ratio is missing, was' in out


def test_figures_of_another_profile_are_refused(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = changed(measured, lambda result: result.update(profile='gpu'))
    assert tool.main(['--read', other, '--check', str(measured)]) == 2
    assert "'tiny', the new ones of 'gpu'" in capsys.readouterr().err


def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(['--profile', 'tiny', '--only', 'stage 4']) == 2
    assert 'has stage 4 in its name' in capsys.readouterr().err
    for args in (['--budget', '0'], ['--tolerance', '1'], ['--plan', '-1']):
        with pytest.raises(SystemExit, match='2'):
            tool.main(args)


def test_want_of_memory_is_reported_and_the_rest_goes_on() -> None:
    worker = Worker(CPU)
    # More than a process can address.
    huge = Case('backbone', 'tiny', 64, 10**10)
    (row,) = worker.measure(huge, 300)
    assert row['status'] == 'out of memory' and row['name'] == huge.name
    assert tool.cells(row)[2] == 'out of memory'
    (row,) = worker.measure(Case('backbone', 'tiny', 40), 300)
    assert 'not divisible into 4 windows' in row['status']
    (row,) = worker.measure(Case('loader', 'boxes', 64, repeat=1), 300)
    assert row['status'] == 'done'
    # As the system does with a process that takes too much.
    worker._process.kill()
    (row,) = worker.measure(huge, 300)
    assert row['status'] == 'out of memory'
    (row,) = worker.measure(huge, 0)
    assert row['status'] == 'left out: the budget was over'
    worker.close()


def test_cases_beyond_the_budget_are_named() -> None:
    rows = list(tool.measure_all(tool.PROFILES['cpu'], CPU, 1e-9))
    assert [row['name'] for row in rows] == [
        case.name for case in tool.PROFILES['cpu']
    ]
    assert {row['status'] for row in rows} == {'left out: the budget was over'}


def test_a_peer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'mmpretrain.models', None)
    rows = cases.measure(Case('backbone', 'tiny', 64, repeat=1), CPU)
    assert all(row['peer'].startswith('not measured:') for row in rows)
    assert all('ratio' not in row and row['share'] > 0 for row in rows)


def test_vit_sam_computes_the_same_maps() -> None:
    pytest.importorskip('mmpretrain')
    ours = Setting('tiny', 1, 128).tower()
    theirs = vit_sam(ours, 'tiny', 128)
    img = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        map_theirs = ours.norm(theirs(img)[0].permute(0, 2, 3, 1))
        difference = ours(img)[0] - map_theirs.permute(0, 3, 1, 2)
    assert difference.abs().max() < 1e-4


@pytest.mark.parametrize(
    'case',
    [
        Case('stage 1', 'symbols', 64, 2),
        Case('stage 2', 'symbols', 128, 1),
        Case('stage 3', 'symbols', 192, 1),
    ],
    ids=lambda case: case.stage,
)
def test_operations_are_those_of_a_real_call(case: Case) -> None:
    ours = sides.sides_of(case, CPU).ours
    assert sides.operations(case) == ours.flops
    for part, call in ours.calls.items():
        with (
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            call()
        # The classifier and the loss are not counted; RoIs are drawn.
        assert ours.flops[part] == pytest.approx(
            counter.get_total_flops(), rel=0.03
        )


@pytest.mark.parametrize('name', ['cpu', 'gpu'])
def test_pages_are_those_of_their_figures(name: str) -> None:
    result = json.loads((DOCS / f'{name}.json').read_text())
    page = (DOCS / f'{name}.md').read_text(encoding='utf-8')
    assert page == tool.page(result)
    cases_of = {case.name for case in tool.PROFILES[result['profile']]}
    assert {row['name'] for row in result['rows']} == cases_of
