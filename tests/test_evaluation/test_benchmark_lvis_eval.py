# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import json
import runpy
import sys
from pathlib import Path

import pytest

TOOL = (
    Path(__file__).parents[2]
    / 'tools'
    / 'analysis_tools'
    / 'benchmark_lvis_eval.py'
)


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_benchmark_compares_the_same_figures(monkeypatch, capsys, iou_type):
    options = ['--images', '4', '--dets', '40', '--categories', '30']
    monkeypatch.setattr(
        sys, 'argv', [TOOL.name, *options, '--iou-type', iou_type]
    )
    runpy.run_path(str(TOOL), run_name='__main__')
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line['iou_type'] == iou_type
    assert line['max_error'] < 1e-6
    assert line['ratio'] > 0 and line['AP'] > 0
    assert {'dito_s', 'lvis_s', 'faster_s'} <= line.keys()


def test_benchmark_of_memory(monkeypatch, capsys):
    tool = TOOL.with_name('benchmark_metric_memory.py')
    options = ['--images', '3', '--dets', '20', '--fixed']
    monkeypatch.setattr(sys, 'argv', [tool.name, *options])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    runpy.run_path(str(tool), run_name='__main__')
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line['fixed'] and 0 < line['held_mb'] < 5
    assert line['rss_evaluating_mb'] >= line['rss_arriving_mb'] >= 0
