# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The benchmark of post-processing, at a small size."""

import json
import sys
from pathlib import Path

import pytest

TOOL = (
    Path(__file__).parents[2]
    / 'tools'
    / 'analysis_tools'
    / 'benchmark_postprocessing.py'
)


def test_both_ways_give_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys,
        'argv',
        [
            TOOL.name,
            '--classes',
            '5',
            '40',
            '60',
            '--proposals',
            '30',
            '--dims',
            '512',
            '--dets',
            '20',
            '--chunk',
            '16',
            '--plain-limit',
            '50',
        ],
    )
    # Processes find the functions of a script by its name.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOL.parent))
        import benchmark_postprocessing

        benchmark_postprocessing.main()
    out = capsys.readouterr().out.splitlines()
    lines = [json.loads(line) for line in out if line.startswith('{')]
    assert [line['classes'] for line in lines] == [5, 40, 60]
    for line in lines[:2]:
        assert line['same_detections'] and line['ratio'] > 0
        assert line['max_score_error'] < 1e-5
    assert 'plain_s' not in lines[2] and lines[2]['detections'] == 20
