# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Figures of docs/pretraining.md: what its formulas give, alike elsewhere."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / 'docs' / 'pretraining.md'
# Width, layers of the image tower; of the text tower.
TOWERS = dict(
    S=((384, 12), (384, 12)),
    B=((768, 12), (512, 12)),
    L=((1024, 24), (768, 12)),
)


def tower(width, layers, tokens):
    return layers * (24 * tokens * width**2 + 4 * tokens**2 * width)


def rows(columns):
    """Figures of the rows of a table with so many columns."""
    found = {}
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in line.split('|')[1:-1]]
        if len(cells) == columns and cells[0].startswith('ViT-'):
            found[cells[0][4]] = [
                float(re.match(r'[\d.e,]+', cell)[0].replace(',', ''))
                for cell in cells[1:]
            ]
    assert set(found) == set(TOWERS)
    return found


def hours(operations, peak):
    return operations / (0.4 * peak) / 3600


@pytest.mark.parametrize('name', TOWERS)
def test_stage_1(name):
    image, text, pair, total, a100, h100 = rows(7)[name]
    (width, layers), of_text = TOWERS[name]
    patches = 2 * 196 * width * 16**2 * 3
    want = tower(width, layers, 196) + patches
    assert image == pytest.approx(want / 1e9, abs=0.06)
    assert text == pytest.approx(tower(*of_text, 77) / 1e9, rel=0.01)
    exact = 3 * (want + tower(*of_text, 77))
    assert pair == pytest.approx(exact / 1e9, rel=0.01)
    assert total == pytest.approx(exact * 500_000 * 16_384, rel=0.03)
    assert a100 == pytest.approx(hours(total, 312e12), rel=0.03)
    assert h100 == pytest.approx(hours(total, 989e12), rel=0.03)


@pytest.mark.parametrize('name', TOWERS)
def test_stage_2(name):
    pair, total, a100, h100 = rows(5)[name]
    (width, layers), of_text = TOWERS[name]
    # Four 3 x 3 convolutions and two linear layers on 7 x 7 cells.
    head = 2 * (4 * 49 * 9 * 256**2 + 49 * 256 * 1024 + 1024 * width)
    frozen = tower(width, layers, 256) + tower(*of_text, 77)
    # Pyramid and proposal head are the rest.
    assert 0.9 < (frozen + 3 * 750 * head) / (1e9 * pair) < 1
    assert total == pytest.approx(1e9 * pair * 30_000 * 4096, rel=0.03)
    assert a100 == pytest.approx(hours(total, 312e12), rel=0.03)
    assert h100 == pytest.approx(hours(total, 989e12), rel=0.03)


def estimates():
    """GPUs, hours and operations (1e12) of the configs in their list."""
    text = (DOCS.parents[1] / 'configs/README.md').read_text()
    row = r'^\| `(\S+)` \|.*\| (\d+) \| ([\d.]+) \| ([\d.]+) \|$'
    return {
        name: tuple(map(float, cells))
        for name, *cells in re.findall(row, text, re.MULTILINE)
    }


@pytest.mark.parametrize('name', TOWERS)
@pytest.mark.parametrize(('stage', 'columns'), [('clip', 7), ('rep', 5)])
def test_list_of_configs(stage, columns, name):
    *_, operations, _, a100, _ = rows(columns)[name]
    gpus, each, got = estimates()[
        f'pretrain/{stage}_vit{name.lower()}16_laion2b'
    ]
    assert got == pytest.approx(operations / 1e3, abs=0.006)
    assert each == pytest.approx(a100 / gpus, abs=0.5)


@pytest.mark.parametrize('name', ['B', 'L'])
def test_list_of_configs_and_many_gpus(name):
    text = DOCS.with_name('scaling.md').read_text()
    row = rf'^\| stage 3, ViT-{name} \| ([\d,]+) \| \d\.\de'
    (found,) = re.findall(row, text, re.MULTILINE)
    operations = float(found.replace(',', '')) / 1e3
    gpus, each, got = estimates()[f'dito_vit{name.lower()}_lvis']
    assert got == pytest.approx(operations, abs=0.06)
    total = operations * 1e12 * 36_800 * 128
    assert each == pytest.approx(hours(total, 312e12) / gpus, abs=0.5)
