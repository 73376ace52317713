# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import json

import benchmark_backbone as tool
import pytest

SMALL = ['--arch', 'tiny', '--img-size', '64', '--grid', '2', '--repeat', '1']


def test_windows_compute_what_vit_sam_computes(capsys):
    pytest.importorskip('mmpretrain')
    result = tool.main(['windows', *SMALL, '--train'])
    assert result['max_difference'] < 1e-4
    seconds = result['seconds']
    assert result['ratio'] == seconds['vit_sam'] / seconds['dito'] > 0
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert json.loads(line) == result


def test_swl_is_timed_against_the_plain_pass(monkeypatch):
    # Memory is measured in new processes, which import everything again.
    monkeypatch.setattr(tool, 'peak_memory', lambda args, kwargs: 2.0)
    result = tool.main(['swl', *SMALL, '--bf16'])
    seconds = result['seconds']
    assert set(seconds) == {'plain', 'swl', 'swl_sequential'}
    assert result['ratio'] == seconds['swl'] / seconds['plain']
    assert result['memory_ratio'] == 1


def test_windows_that_vit_sam_cannot_have():
    pytest.importorskip('mmpretrain')
    with pytest.raises(ValueError, match='--grid 3'):
        tool.main(
            ['windows', '--arch', 'tiny', '--img-size', '64', '--grid', '3']
        )
