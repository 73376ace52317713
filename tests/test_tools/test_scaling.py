# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Bytes of many GPUs: formulas against processes, and the page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import scaling
from scaling import Stage, by_collective, messages, on_the_wire

ROOT = Path(__file__).parents[2]


def test_processes_send_what_the_formulas_say() -> None:
    # Forked of a process that has not trained.
    code = 'import json, scaling; print(json.dumps(scaling.count(2)))'
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT / 'tools' / 'analysis_tools',
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    counted = json.loads(done.stdout.splitlines()[-1])
    stage = scaling.counted_stage(2)
    assert counted == by_collective(messages(stage, 2))
    assert counted['allreduce'] > 4 * stage.trained > 10**6


def test_formulas() -> None:
    stage = Stage('a', 32, 1, 1, 100, 7, 2, dims=5, embeddings=4)
    assert messages(stage, 1) == {}
    sent = messages(stage, 8)
    # Four pairs with a text and four images of five floats.
    assert sent['embeddings'] == 4 * 5 * 5 * 4
    assert sent['their gradients'] == 32 * 5 * 5 * 4
    assert sent['gradients'] == 400 and sent['counts'] == 8
    wire = on_the_wire(sent, 8)
    assert wire['embeddings'] == 7 * sent['embeddings']
    assert wire['gradients'] == 2 * 7 * 400 // 8
    assert stage.checkpoint == 4 * (7 + 3 * 100)
    assert 'embeddings' not in messages(Stage('b', 8, 1, 1, 1, 0, 1), 8)


def test_stages_are_those_of_the_paper() -> None:
    clip = scaling.paper_stage('stage 1', 'base')
    assert (clip.batch, clip.steps, clip.dims) == (16384, 500_000, 768)
    # docs/pretraining.md: 122.7 GFLOP by another formula.
    assert clip.flops / 1e9 == pytest.approx(122.7, rel=0.01)
    rep = scaling.paper_stage('stage 2', 'base')
    assert (rep.batch, rep.steps, rep.embeddings) == (4096, 30_000, 4)
    assert rep.flops / 1e9 == pytest.approx(699, rel=0.01)
    assert rep.frozen > 100e6 > rep.trained


def test_page_is_what_the_script_writes() -> None:
    counted = {
        n: by_collective(messages(scaling.counted_stage(n), n))
        for n in (1, 2, 4)
    }
    text = scaling.page(list(scaling.stages()), counted)
    assert text == (ROOT / 'docs/scaling.md').read_text(encoding='utf-8')
