# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of the reading of configs inside checkpoints."""

import pytest
from mmengine.config import Config

from dito.utils.config_text import parse_config_text


def test_round_trip() -> None:
    content = dict(
        model=dict(
            type='mmdet.DITO', size=(1, -2.5), names=['a', "b'c"], none=None),
        flags={True, False},
        table={
            'odd key': 1,
            2: dict(x=3)
        },
        limits=(float('inf'), -float('inf'), -3, -0.5),
        pipeline=[dict(type='Resize', scale=(64, 64)),
                  dict(type='Pad')])
    text = Config(content).pretty_text
    assert parse_config_text(text) == content


def test_imports_are_left_out() -> None:
    text = "custom_imports = dict(imports=['os'])\nx = 1\n"
    assert parse_config_text(text) == dict(x=1)


@pytest.mark.parametrize('text', [
    'import os',
    "x = __import__('os')",
    'x = y',
    'x = [i for i in (1, 2)]',
    'x = (1).bit_length()',
    "x = f'{1}'",
    'x, y = 1, 2',
    "x = dict([('a', 1)])",
    'x = dict(**{})',
    "x = {**{'a': 1}}",
    'x = lambda: 0',
])
def test_refuses_more_than_values(text: str) -> None:
    with pytest.raises(ValueError, match='more than plain values'):
        parse_config_text(text)


@pytest.mark.parametrize('kind', ['os.system', 'mmengine.fileio.get',
                                  'builtins.exec'])
def test_refuses_foreign_types(kind: str) -> None:
    for text in (f"x = dict(type='{kind}')",
                 f"x = [dict(y=(dict(type='{kind}'),))]"):
        with pytest.raises(ValueError, match=f'asks for "{kind}"'):
            parse_config_text(text)
