# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Choice of the kept token rows."""

import json

import pytest

from dito.models.text.token_table import (
    bpe_tokenizer,
    collect_token_ids,
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


@pytest.mark.parametrize('name, text', [
    ('ids.json', json.dumps([9, 7, 9])),
    ('ids.txt', '9\n7\n'),
])
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


@pytest.mark.parametrize('spec, message', [
    ([1, 60000], r'must lie in \[0, 49408\), got \[60000\]'),
    ([-1], r'got \[-1\]'),
    (2, 'too few rows'),
    (dict(texts='x'), 'must be dict'),
])
def test_bad_ids_are_refused(spec, message) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_token_ids(spec)


def test_missing_and_broken_files_are_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match='does not exist'):
        resolve_token_ids(str(tmp_path / 'no.json'))
    (tmp_path / 'bad.json').write_text('{"a": ')
    with pytest.raises(ValueError, match='not a list of token ids'):
        resolve_token_ids(tmp_path / 'bad.json')
