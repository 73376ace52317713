# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Files and folders appear whole or not at all, and are read with care."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dito.utils.files import (
    encoding_of,
    new_folder,
    read_json,
    replacing,
    require_place,
    require_plain_file,
    sha256_of,
    write_json,
    write_json_list,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('sync', [False, True])
def test_a_file_is_replaced_at_the_end(tmp_path, sync):
    path = tmp_path / 'new' / 'a.png'
    with replacing(path, sync) as unfinished:
        # Writers of pictures choose by the suffix.
        assert unfinished.suffix == '.png'
        assert unfinished.parent == path.parent and not path.exists()
        unfinished.write_text('1')
    with replacing(path, sync) as unfinished:
        unfinished.write_text('2')
        assert path.read_text() == '1'
    assert path.read_text() == '2' and names(path.parent) == ['a.png']


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / 'a.json'
    write_json(path, 1)
    with pytest.raises(TypeError, match='not JSON serializable'):
        write_json(path, [1, object()])
    assert read_json(path) == 1 and names(tmp_path) == ['a.json']


def test_threads_may_write_one_file(tmp_path):
    path = tmp_path / 'a.txt'
    texts = [str(i) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda text: write_text(path, text), texts))
    assert path.read_text() in texts and names(tmp_path) == ['a.txt']


def test_json_on_one_line_or_on_many(tmp_path):
    path = tmp_path / 'a.json'
    write_json(path, dict(a=[1, 'ü']))
    assert path.read_text() == '{"a":[1,"\\u00fc"]}\n'
    write_json(path, dict(a=1), indent=1)
    assert path.read_text() == '{\n "a": 1\n}\n'


@pytest.mark.parametrize('parts', [[], [[]], [[1]], [[1, 2], [], [3]]])
def test_a_list_in_parts(tmp_path, parts):
    write_json_list(tmp_path / 'a.json', iter(parts))
    assert json.loads((tmp_path / 'a.json').read_text()) == sum(parts, [])


def test_a_folder_appears_at_the_end(tmp_path):
    target = tmp_path / 'sub' / 'set'
    with new_folder(target) as parts:
        (parts / 'a').write_text('1')
        assert not target.exists()
    assert (target / 'a').read_text() == '1'
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o777 & ~umask
    with new_folder(target) as parts:
        (parts / 'b').write_text('2')
    assert names(target) == ['b'] and names(target.parent) == ['set']


def test_a_folder_survives_what_was_to_replace_it(tmp_path, monkeypatch):
    target = tmp_path / 'set'
    target.mkdir()
    (target / 'a').write_text('1')
    with pytest.raises(KeyError), new_folder(target) as parts:
        raise KeyError(parts)
    assert names(target) == ['a'] and names(tmp_path) == ['set']
    rename = Path.rename

    def fail_for_new(self, other):
        if self.name == 'new':
            raise OSError('disk full')
        return rename(self, other)

    monkeypatch.setattr(Path, 'rename', fail_for_new)
    with pytest.raises(OSError, match='disk full'), new_folder(target):
        pass
    assert names(target) == ['a'] and names(tmp_path) == ['set']


def test_hash_of_a_file(tmp_path):
    content = bytes(range(256)) * 9000  # of several blocks
    (tmp_path / 'a').write_bytes(content)
    assert sha256_of(tmp_path / 'a') == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    'encoding,name',
    [
        ('utf-8-sig', 'utf-8-sig'),
        ('utf-16', 'utf-16'),
        ('utf-32', 'utf-32'),
        ('utf-8', 'utf-8'),
    ],
)
def test_encodings(encoding, name):
    assert encoding_of('text'.encode(encoding)[:4]) == name


def test_what_is_no_plain_file(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for path, kind in (
        (tmp_path / 'pipe', 'pipe or device'),
        (tmp_path, 'folder'),
    ):
        with pytest.raises(ValueError, match=f'is a {kind}, not a file'):
            require_plain_file(path)
    require_plain_file(tmp_path / 'missing')


@pytest.mark.parametrize(
    'text,error',
    [
        ('{"a": 1, "a": 2}', "an object has 'a' twice"),
        ('[1, 2', 'is not valid JSON'),
        ('[' * 100_000, 'nested too deeply'),
    ],
)
def test_json_that_is_refused(tmp_path, text, error):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(ValueError, match=error):
        read_json(tmp_path / 'a.json')
    (tmp_path / 'a.json').write_text('{"a": 1, "a": 1}')
    assert read_json(tmp_path / 'a.json') == dict(a=1)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match='is a folder; give the path of'):
        write_json(tmp_path, 1)
    assert not names(tmp_path)
    assert not list(tmp_path.parent.glob(f'.*{tmp_path.name}'))


def test_what_is_no_place_for_a_file(tmp_path, monkeypatch):
    """Devices stay what they are, even for an administrator."""
    (tmp_path / 'a').write_text('kept')
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'out').symlink_to('/proc/self/fd/1')
    require_place(tmp_path / 'new' / 'deep' / 'b')
    for name, message in (
        ('pipe', 'pipe is a pipe or device; give'),
        ('out', 'out is a pipe or device; give'),
        ('.', 'is a folder; give'),
        ('a/b', 'a/b cannot be written: .*/a is no folder; give'),
        ('a/b/c', 'a/b/c cannot be written: .*/a.* is no folder; give'),
    ):
        for call in require_place, lambda path: write_json(path, 1):
            with pytest.raises(
                (ValueError, NotADirectoryError), match=message
            ):
                call(tmp_path / name)
    assert names(tmp_path) == ['a', 'out', 'pipe']
    assert (tmp_path / 'a').read_text() == 'kept'
    monkeypatch.setattr(os, 'access', lambda *_: False)
    with pytest.raises(PermissionError, match='no permission to write in'):
        require_place(tmp_path / 'b')


def test_an_error_names_the_file_and_not_the_unfinished_one(tmp_path):
    path = tmp_path / ('x' * 300)
    with pytest.raises(OSError) as caught:
        write_json(path, 1)
    assert caught.value.filename == str(path)


def test_names_may_be_as_long_as_file_systems_take(tmp_path):
    name = 'x' * 250 + '.json'
    write_json(tmp_path / name, 1)
    assert names(tmp_path) == [name]
