# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The notebook runs from its first cell to its last, in a small way."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# What makes it small: two steps, few pictures.
SMALL = {
    'STEPS = 100': 'STEPS = 2',
    "('1200', '300')": "('16', '12')",
    "'10', '1188'": "'10', '198'",
}


@pytest.mark.slow
def test_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((ROOT / 'docs/tutorial.ipynb').read_text('utf-8'))
    cells = [
        ''.join(cell['source'])
        for cell in notebook['cells']
        if cell['cell_type'] == 'code'
    ]
    for long, short in SMALL.items():
        assert long in cells[0]
        cells[0] = cells[0].replace(long, short)
    (tmp_path / 'tests').symlink_to(ROOT / 'tests')
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f'cell {number}', 'exec'), scope)
    assert len(scope['names']) == 12
    assert scope['sample'].text.startswith('a photo of')
