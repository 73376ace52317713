# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Run the examples of docs/inference.md, one after the other."""

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest
from tiny_api import write_detector, write_film

PAGE = (Path(__file__).parents[2] / 'docs' / 'inference.md').read_text()
BLOCKS = re.findall(r'^```python\n(.*?)^```', PAGE, re.M | re.S)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the page speaks of."""
    parts = write_detector(tmp_path)
    shutil.move(parts['weights'], tmp_path / 'detector.safetensors')
    cv2.imwrite(
        str(tmp_path / 'beach.jpg'), cv2.imread(str(parts['images'][0]))
    )
    shutil.copy(parts['images'][1], tmp_path / 'mug.png')
    (tmp_path / 'photos').mkdir()
    for path in parts['images']:
        shutil.move(path, tmp_path / 'photos' / path.name)
    (tmp_path / 'photos' / '0_broken.JPG').write_bytes(b'no picture')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(numbers: list[int]) -> dict[str, Any]:
    """Run blocks in one namespace."""
    names: dict[str, Any] = {}
    for number in numbers:
        exec(compile(BLOCKS[number], f'block {number}', 'exec'), names)
    return names


def test_pictures_one_and_many(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run([0, 4, 5, 7])
    said = capsys.readouterr().out
    # The broken one is in the middle by its name.
    assert [p is None for p in names['found']['predictions']] == [
        False,
        True,
        False,
    ]
    assert len(names['done']) == 2
    assert len(re.findall('^left out: .*0_broken.JPG', said, re.M)) == 1
    alone = [
        names['detector'](path, 'anchor, red umbrella')['predictions'][0]
        for path in names['paths']
        if 'broken' not in path
    ]
    assert names['count'] == sum(len(p['scores']) for p in alone) > 0
    rows = (here / 'found.csv').read_text().splitlines()[1:]
    assert {row.split(',')[0] for row in rows} == set(
        path for path in names['paths'] if 'broken' not in path
    )


def test_scenes_examples_and_search(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run([0, 1, 2, 3])
    said = capsys.readouterr().out
    assert re.search(r"'brolly'.*'my mug'|'my mug'.*'brolly'", said)
    assert names['queries'].examples.count(2) == 1
    assert '0_broken.JPG' in said
    assert len(re.findall(r'^-?0\.\d{3} photos/\d.png', said, re.M)) == 5
    assert len(names['index']) > 5


def test_films(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_film(here / 'clip.mp4', 6, 32)
    run([0, 6])
    said = capsys.readouterr().out.splitlines()
    assert [line.split(':')[0] for line in said if 'clip' in line] == [
        'clip.mp4 0 0.00 s',
        'clip.mp4 5 0.50 s',
    ]
    assert len((here / 'found/preds/clip.jsonl').read_text().split('\n')) == 3


def test_tiles(here: Path) -> None:
    names = run([0, 8])
    assert len(names['scene']) and names['found']['names']


def test_clients_of_mmdetection(here: Path) -> None:
    names = run([0, 9])
    assert names['client'].model.dataset_meta['classes'] == (
        'red umbrella',
        'anchor',
    )
    assert (here / 'outputs' / 'vis' / 'beach.jpg').is_file()


def test_sahi_and_supervision(here: Path) -> None:
    pytest.importorskip('sahi')
    pytest.importorskip('supervision')
    names = run([0, 10, 11])
    found = names['result'].object_prediction_list
    assert {f.category.name for f in found} <= {'red umbrella', 'anchor'}
    assert (
        names['labels']
        == names['detector']('beach.jpg')['predictions'][0]['names']
    )


def test_all_blocks_are_run() -> None:
    assert len(BLOCKS) == 12
