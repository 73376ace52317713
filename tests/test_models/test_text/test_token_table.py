# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Choice of the kept token rows."""

import json

import numpy as np
import pytest
from open_clip import SimpleTokenizer

from dito.models.text import DITOTextEncoder
from dito.models.text.tokenizers import (
    bpe_tokenizer,
    collect_token_ids,
    cut_text,
    resolve_token_ids,
)

SPECIAL = {0, 49406, 49407}


def test_collects_sorted_ids_with_special_ones() -> None:
    ids = collect_token_ids(['a red cat', 'A cat'])
    assert ids == sorted(set(ids)) and SPECIAL <= set(ids)
    assert len(ids) == 3 + len(SPECIAL)
    assert ids[0] == 0 and ids[-1] == bpe_tokenizer().eot_token_id


def test_none_keeps_all() -> None:
    assert resolve_token_ids(None) is None


@pytest.mark.parametrize(
    'name, text',
    [
        ('ids.json', json.dumps([9, 7, 9])),
        ('ids.txt', '9\n7\n'),
    ],
)
def test_reads_files_of_ids(tmp_path, name, text) -> None:
    (tmp_path / name).write_text(text)
    ids = resolve_token_ids(str(tmp_path / name))
    assert ids.tolist() == [0, 7, 9, 49406, 49407]


def test_reads_a_file_of_texts(tmp_path) -> None:
    (tmp_path / 'texts.txt').write_text('a red cat\nA cat\n')
    ids = resolve_token_ids(dict(texts_file=str(tmp_path / 'texts.txt')))
    assert ids.tolist() == collect_token_ids(['a red cat'])


def test_number_gives_empty_rows() -> None:
    assert resolve_token_ids(5).tolist() == [-1] * 5


@pytest.mark.parametrize(
    'spec, message',
    [
        ([1, 60000], r'must lie in \[0, 49408\), got \[60000\]'),
        ([-1], r'got \[-1\]'),
        (2, 'too few rows'),
        (dict(texts='x'), 'must be dict'),
    ],
)
def test_bad_ids_are_refused(spec, message) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_token_ids(spec)


def test_missing_and_broken_files_are_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match='does not exist'):
        resolve_token_ids(str(tmp_path / 'no.json'))
    (tmp_path / 'bad.json').write_text('{"a": ')
    with pytest.raises(ValueError, match='not a list of token ids'):
        resolve_token_ids(tmp_path / 'bad.json')


def test_only_very_long_texts_are_cut():
    """Where cutting shows no token of the context changes."""
    words = ' '.join(f'word{i}' for i in range(2000))
    for text in ('a photo', 'x' * 1540, words[:1540], ' ' * 1500 + 'a'):
        assert cut_text(text) == text
    assert len(cut_text(words)) == 1540
    tokens = bpe_tokenizer().encode
    assert tokens(cut_text(words))[:75] == tokens(words)[:75]
    assert cut_text('\n' * 20_000 + 'a  photo') == 'a photo'
    assert len(cut_text(words, 16)) == 320


def test_what_takes_the_tokenizer_a_minute_is_cut(monkeypatch):
    """Its time grows with the square of the length."""
    seen = []
    encode = SimpleTokenizer.encode
    monkeypatch.setattr(
        SimpleTokenizer,
        'encode',
        lambda self, text: seen.append(len(text)) or encode(self, text),
    )
    letters = ''.join(
        np.random.default_rng(0).choice(list('abcdefgh'), 100_000)
    )
    texts = [letters, '&' + 'amp;' * 50_000, ' ' * 10**6 + 'a' + letters]
    tower = DITOTextEncoder(
        dict(width=16, layers=1, heads=2),
        16,
        token_ids=DITOTextEncoder.collect_token_ids(texts),
    )
    tokens = tower.tokenize(texts)
    assert tokens.shape == (3, 77) and (tokens.max(1).values > 0).all()
    assert tower.unknown_pieces(texts) == []
    assert len(seen) == 9 and max(seen) == 1540
    # The cache holds what was cut, not the long texts.
    assert max(map(len, tower.caption_tokenizer()._known)) == 1540
