# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Class names from files."""

import json

import pytest

from dito.models.text.name_files import NameList, read_names


@pytest.mark.parametrize('name, content, want', [
    ('n.txt', '# pets\ncat\n\n red dog \n', NameList(['cat', 'red dog'])),
    ('n.json', json.dumps(['cat', 'dog']), NameList(['cat', 'dog'])),
    ('n.json', json.dumps(dict(cat=['kitty'], dog=[])),
     NameList(['cat', 'dog'], dict(cat=['kitty'], dog=[]))),
    ('n.json', json.dumps(dict(categories=[dict(id=2, name='cat')])),
     NameList(['cat'])),
    ('n.json',
     json.dumps(
         dict(categories=[
             dict(name='cat', synonyms=['cat', 'kitty'], frequency='f'),
             dict(name='yak', synonyms=['yak'], frequency='r')
         ])), NameList(['cat', 'yak'], dict(cat=['kitty']), ['yak'])),
])
def test_reads(tmp_path, name, content, want) -> None:
    (tmp_path / name).write_text(content)
    assert read_names(tmp_path / name) == want


@pytest.mark.parametrize('content, message', [
    (b'{"a": 1}', 'has no class names'),
    (b'[{"id": 1}]', 'has no class names'),
    (b'[1', 'is not .json in UTF-8'),
    (b'\xff\xfe', 'is not .json in UTF-8'),
])
def test_other_content_is_refused(tmp_path, content, message) -> None:
    (tmp_path / 'n.json').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_names(tmp_path / 'n.json')


def test_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match='no.txt does not exist'):
        read_names(tmp_path / 'no.txt')
