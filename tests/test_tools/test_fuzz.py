# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Damaged inputs, a few of each kind; and that faults would be found."""

import json
import os
import pkgutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'fuzz.py'


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch):
    """The tool as a module; its processes find it by its name."""
    monkeypatch.syspath_prepend(str(TOOL.parent))
    import fuzz as tool

    return tool


def test_damaged_inputs_are_answered(fuzz, capsys, tmp_path) -> None:
    path = tmp_path / 'found.json'
    assert (
        fuzz.main(['--number', '100', '--seed', '5', '--json', str(path)]) == 0
    )
    out = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert f'{found["number"]} inputs, seed 5: 0 failures' in out
    assert list(found['kinds']) == list(fuzz.KINDS)
    for kind, counts in found['kinds'].items():
        assert f'| {kind} | {sum(counts.values())} | ' in out
        assert sum(counts.values()) > 2
    # Damage is met, and not by refusing all there is.
    total = sum(map(Counter, found['kinds'].values()), Counter())
    assert min(total[name] for name in fuzz.GOOD) > 10


def test_an_input_is_made_from_its_number_alone(fuzz) -> None:
    import fuzz_inputs as inputs

    for make in (
        lambda rng: inputs.damage(inputs.shard(2), rng)[0],
        lambda rng: inputs.damage_header(inputs.shard(2), rng),
        lambda rng: inputs.to_json(
            inputs.damage_tree(inputs.annotations(), rng), rng
        ),
    ):
        one, two, other = (make(np.random.default_rng(s)) for s in (1, 1, 2))
        assert one == two != other


@pytest.mark.parametrize(
    'step,outcome',
    [
        (lambda: 'right', 'right'),
        (lambda: 'lost: 1 of 2', 'lost'),
        (lambda: 1 / 0, 'crash'),
        (lambda: int('x'), 'crash'),
        (lambda: [].index(3), 'crash'),
        (lambda: open('no file'), 'refused'),
    ],
)
def test_what_comes_of_a_reader_is_named(fuzz, step, outcome) -> None:
    assert fuzz._judge(step)[0] == outcome


def test_sentences_and_counted_samples_are_no_crash(fuzz) -> None:
    from dito.datasets.image_text.transforms import decode_reduced
    from dito.models.text import Vocabulary

    assert fuzz._judge(lambda: decode_reduced(b'x', None, 1))[0] == 'counted'
    assert fuzz._judge(lambda: Vocabulary.load('no.safetensors'))[0] == (
        'refused'
    )


@pytest.fixture
def here(monkeypatch, tmp_path) -> Path:
    """The folder of inputs, in folders of the tool's own."""
    path = tmp_path / 'a' / 'b'
    path.mkdir(parents=True)
    monkeypatch.chdir(path)
    (tmp_path / 'temporary').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temporary'))
    return path


@pytest.mark.parametrize(
    'kind',
    ['tars', 'tables', 'json', 'metrics', 'vocabularies', 'checkpoints'],
)
def test_what_is_sound_is_right_to_every_reader(
    fuzz, here, monkeypatch, kind
) -> None:
    """Or damage would be refused for another reason."""
    import fuzz_inputs as inputs

    monkeypatch.setattr(inputs, 'damage', lambda data, *_: (data, True))
    for name in (
        'damage_tree',
        'damage_header',
        'damage_safetensors',
        'damage_pickle',
    ):
        monkeypatch.setattr(inputs, name, lambda data, _: data)
    monkeypatch.setattr(
        inputs, 'to_json', lambda tree, _: json.dumps(tree).encode()
    )
    for i in range(3):
        folder = here / str(i)
        folder.mkdir()
        steps = fuzz.KINDS[kind][0](folder, np.random.default_rng(i))
        found = [fuzz._judge(step) for step in steps]
        assert [
            f
            for f in found
            if f[0] != 'right' and ('it is compressed' not in f[1])
        ] == []


# Faults of a reader, and what the tool must call them.
PLANTED = {
    'a mark': ('code', lambda _: Path('canary').touch()),
    'a program': ('code', lambda _: subprocess.run(['true'])),
    'a shell': ('code', lambda _: os.system('true')),
    'a file above': ('outside', lambda f: (f / '../../x').touch()),
    'a file beside': ('outside', lambda _: Path('x').write_text('')),
    'a file written in C': (
        'outside',
        lambda f: cv2.imwrite(
            str(f.parent / 'x.png'), np.zeros((2, 2, 3), np.uint8)
        ),
    ),
    'a folder': ('outside', lambda f: (f.parent / 'x').mkdir()),
    'a file removed': ('outside', lambda _: Path('bait').unlink()),
    'a file moved out': ('outside', lambda f: (f / 'in').rename('x')),
    'a link': ('outside', lambda _: Path('x').symlink_to('/')),
    'a private file': ('outside', lambda _: open('/etc/passwd').close()),
    'a file read': ('outside', lambda _: Path('bait').read_text()),
    'a connection': (
        'outside',
        lambda _: socket.create_connection(('127.0.0.1', 9), timeout=1),
    ),
    'a process': ('crash', lambda _: 1 / 0),
    'nothing': (
        'right',
        lambda f: (f / 'y').write_text((f / 'in').read_text()),
    ),
}


@pytest.mark.parametrize('name', PLANTED)
def test_what_an_input_must_not_do_is_found(
    fuzz, here, monkeypatch, name
) -> None:
    outcome, fault = PLANTED[name]
    (here / 'bait').write_text('x')

    def steps(folder, rng):
        (folder / 'in').write_text('x')
        yield lambda: fault(folder) and 'right' or 'right'

    monkeypatch.setitem(fuzz.KINDS, 'names', (steps, 1))
    assert fuzz.attempt('names', 0, 0)[0] == outcome
    assert not (here / 'canary').exists()


def _shifted(original):
    def take(self) -> None:
        original(self)
        self.boxes += 5

    return take


# Losses without a count, planted where things are counted or judged.
LOSSES = {
    'tars': (
        'dito.datasets.image_text.bad_samples.SampleCounter.add_broken',
        lambda _: lambda *args: None,
    ),
    'tables': (
        'dito.datasets.shard_files.read_pairs',
        lambda read: lambda source: read(source)[:-1],
    ),
    'json': (
        'dito.datasets.ov_dataset.left_out',
        lambda _: lambda ann, image: ann['bbox'][2] > 15 or None,
    ),
    'pictures': (
        'dito.datasets.checks.config_checks.check_images',
        lambda _: lambda *args: [],
    ),
    'metrics': (
        'dito.evaluation.ground_truth.LVISGroundTruth._take_annotations',
        _shifted,
    ),
}


@pytest.mark.parametrize('kind', LOSSES)
def test_losses_without_a_count_are_found(
    fuzz, here, monkeypatch, kind
) -> None:
    target, plant = LOSSES[kind]
    sound = Counter(fuzz.attempt(kind, 1, i)[0] for i in range(20))
    assert not set(sound) & set(fuzz.BAD)
    monkeypatch.setattr(target, plant(pkgutil.resolve_name(target)))
    planted = Counter(fuzz.attempt(kind, 1, i)[0] for i in range(20))
    assert planted['lost'] and not planted['crash'], planted


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
