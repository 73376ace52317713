# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""``dito threshold``."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dito.cli import threshold
from dito.cli.threshold import OperatingPoints

TWENTY = Path(__file__).parents[1] / 'data/twenty'


def naive(
    scores: np.ndarray, hits: np.ndarray, objects: int, at: float
) -> tuple[float, float]:
    kept = scores >= at
    return hits[kept].mean(), hits[kept].sum() / objects


def test_every_threshold_equals_counting() -> None:
    draw = np.random.default_rng(0)
    scores = draw.integers(1, 40, 200) / 40
    hits = draw.random(200) < scores
    points = OperatingPoints(scores, hits, 150)
    assert (np.diff(points.thresholds) < 0).all()
    assert len(points.thresholds) == len(set(scores))
    f1 = []
    for index, at in enumerate(points.thresholds):
        precision, recall = naive(scores, hits, 150, at)
        assert points.precision[index] == pytest.approx(precision)
        assert points.recall[index] == pytest.approx(recall)
        f1.append(2 * precision * recall / max(precision + recall, 1e-12))
        assert points.at(at) == index
    assert points.f1[points.best] == pytest.approx(max(f1))
    index = points.reaching(0.8)
    assert points.precision[index] >= 0.8
    assert (points.precision[index + 1 :] < 0.8).all()
    assert points.at(1.1) is None and points.reaching(1.1) is None


def test_nothing_to_measure() -> None:
    none = np.zeros(0)
    with pytest.raises(ValueError, match='no annotated object'):
        OperatingPoints(none, none > 0, 0)
    with pytest.raises(ValueError, match='Nothing was found of 3 objects'):
        OperatingPoints(none, none > 0, 3)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it advises keeps what a count over the pictures says."""
    data = json.loads((TWENTY / 'val.json').read_text())
    data['images'] = data['images'][:3]
    kept = {image['id'] for image in data['images']}
    data['annotations'] = [
        a for a in data['annotations'] if a['image_id'] in kept
    ]
    path = tmp_path / 'val.json'
    path.write_text(json.dumps(data))
    shutil.copytree(TWENTY / 'images', tmp_path / 'images')
    call = ['--data', str(path), '--images', str(tmp_path / 'images')]
    assert threshold.main([*call, '--precision', '0.5']) == 0
    text = capsys.readouterr().out
    assert 'best F1' in text and 'precision 50 %' in text
    first = tmp_path / 'images' / data['images'][0]['file_name']
    first.write_bytes(b'no picture')
    assert threshold.main([*call, '--precision', '1']) == 3
    assert '1 of 3 images could not be read' in capsys.readouterr().err
    assert threshold.main([*call[:3], str(tmp_path)]) == 2
    assert 'None of the 3 pictures can be read' in capsys.readouterr().err


def test_precision_out_of_range(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        threshold.main(['--data', 'a', '--images', 'b', '--precision', '90'])
    assert exit_info.value.code == 2
    assert 'in (0, 1], got 90' in capsys.readouterr().err
