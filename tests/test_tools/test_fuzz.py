# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Damaged inputs, a few of each kind; and that faults would be found."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'fuzz.py'
# The reader of annotations is tried by tests of its own.
KINDS = ('images', 'tars', 'tables', 'vocabularies', 'checkpoints', 'names')


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch):
    """The tool as a module; its processes find it by its name."""
    monkeypatch.syspath_prepend(str(TOOL.parent))
    import fuzz as tool
    return tool


def test_damaged_inputs_are_answered(fuzz, capsys, tmp_path) -> None:
    assert fuzz.main(['--number', '200', '--seed', '5', '--json',
                      str(tmp_path / 'found.json'), '--kind', *KINDS]) == 0
    out = capsys.readouterr().out
    assert '200 inputs, seed 5: 0 failures' in out
    for kind in KINDS:
        assert f'| {kind} | ' in out


def test_an_input_is_made_from_its_number_alone(fuzz) -> None:
    import fuzz_inputs as inputs
    for make in (lambda rng: inputs.damage(inputs.shard(2), rng)[0],
                 lambda rng: inputs.damage_header(inputs.shard(2), rng),
                 lambda rng: inputs.to_json(inputs.damage_tree(
                     inputs.annotations(), rng), rng)):
        one, two, other = (make(np.random.default_rng(s)) for s in (1, 1, 2))
        assert one == two != other


@pytest.mark.parametrize('step,outcome', [
    (lambda: 'right', 'right'), (lambda: 'lost: 1 of 2', 'lost'),
    (lambda: 1 / 0, 'crash'), (lambda: int('x'), 'crash'),
    (lambda: [].index(3), 'crash'), (lambda: open('no file'), 'refused')])
def test_what_comes_of_a_reader_is_named(fuzz, step, outcome) -> None:
    assert fuzz._judge(step)[0] == outcome


def test_sentences_and_counted_samples_are_no_crash(fuzz) -> None:
    from dito.datasets.image_text.decode import decode_reduced
    from dito.models.text import Vocabulary
    assert fuzz._judge(lambda: decode_reduced(b'x', None, 1))[0] == 'counted'
    assert fuzz._judge(lambda: Vocabulary.load('no.safetensors'))[0] == (
        'refused')


def test_code_of_an_input_is_found(fuzz, monkeypatch, tmp_path) -> None:
    import fuzz_inputs as inputs
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(fuzz.KINDS, 'names', (
        lambda folder, rng: iter([lambda: Path(inputs.CANARY).touch() or
                                  'right']), 1))
    assert fuzz.attempt('names', 0, 0) == ('code', 'an input was run')
    assert not Path(inputs.CANARY).exists()


def _hang(pipe, folder) -> None:
    """Stand-in for the work of a process."""
    pipe.send(('ready', ''))
    if pipe.recv()[0] == 'hang':
        time.sleep(600)
    sys.exit(3)


def test_hangs_and_ends_of_a_process_are_found(fuzz, monkeypatch) -> None:
    monkeypatch.setattr(fuzz, '_work', _hang)
    worker = fuzz._Worker(0.5)
    try:
        assert worker(('hang', 0, 0)) == ('hang', 'no answer in 0.5 s')
        worker.limit = 60
        assert worker(('end', 0, 0)) == ('crash', 'exit code 3')
    finally:
        worker.stop()
