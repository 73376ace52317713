# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Prompt templates and readable names."""

import pytest
from mmdet.datasets import LVISV1Dataset, Objects365V2Dataset
from open_clip import OPENAI_IMAGENET_TEMPLATES

from dito.models.text import readable_name, resolve_templates
from dito.models.text.name_checks import check_names, fill_templates


@pytest.mark.parametrize(
    'name, words',
    [
        ('aerosol_can', 'aerosol can'),
        ('bat_(animal)', 'bat (animal)'),
        ('chess_knight_(piece)', 'chess knight (piece)'),
        ('  two\twords ', 'two words'),
        ('Cat', 'Cat'),
        ('__', ''),
    ],
)
def test_readable_name(name, words) -> None:
    assert readable_name(name) == words


def test_openai_templates_are_clips_eighty() -> None:
    texts = resolve_templates('openai')
    assert resolve_templates(None) == texts and len(texts) == 80
    want = [f('cat') for f in OPENAI_IMAGENET_TEMPLATES]
    assert list(fill_templates(texts, 'cat')) == want


def test_small_sets_and_own_texts() -> None:
    assert len(resolve_templates('simple')) == 7
    assert resolve_templates('none') == ('{}',)
    assert resolve_templates('a {}.') == ('a {}.',)
    assert fill_templates(['a {}.'], '{x}') == ('a {x}.',)


@pytest.mark.parametrize('bad', ['openia', [], ['a photo'], [3]])
def test_bad_templates_are_refused(bad) -> None:
    with pytest.raises(ValueError, match='Prompt templates must be one of'):
        resolve_templates(bad)


@pytest.mark.parametrize(
    'dataset, count', [(LVISV1Dataset, 1203), (Objects365V2Dataset, 365)]
)
def test_names_of_public_sets_pass(dataset, count) -> None:
    assert len(check_names(dataset.METAINFO['classes'])) == count
