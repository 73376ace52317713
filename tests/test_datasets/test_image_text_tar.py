# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tar files of all kinds, pipes and addresses, whole and damaged."""

import bz2
import contextlib
import functools
import gzip
import http.server
import io
import lzma
import shutil
import subprocess
import tarfile
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from image_text_files import (
    jpeg,
    loader,
    texts_of,
    write_shards,
    write_tar,
)

from dito.cli.errors import is_user_error
from dito.datasets.image_text import (
    ImageTextShards,
    StreamPosition,
    tar_reader,
)
from dito.datasets.image_text.tar_reader import count_samples, read_shard
from dito.datasets.image_text.tar_walk import TarWalker, open_shard
from dito.datasets.shard_files import check_shards, shard_statistics
from dito.utils.errors import BrokenDataError


def walk(data, seekable=True):
    walker = TarWalker(io.BufferedReader(io.BytesIO(data)), seekable)
    return [
        (name, walker.read() if i % 2 else None)
        for i, (name, _) in enumerate(walker)
    ], walker.ended


@pytest.mark.parametrize('seekable', [True, False])
@pytest.mark.parametrize(
    'kind', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_walking_agrees_with_tarfile(tmp_path, kind, seekable):
    rng = np.random.default_rng(0)
    names = [
        'a.txt',
        'b/c.jpg',
        'd' * 99,
        'e/' + 'f' * 99,
        'k.json',
        'g' * 60 + '/' + 'h' * 90,
    ]
    if kind != tarfile.USTAR_FORMAT:
        names += ['i' * 300, 'über/☂.txt', 'j' * 200 + '/x.y']
    sizes = [0, 1, 511, 512, 513, 5000, 20_000, 3, 0]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w', format=kind) as tar:
        folder = tarfile.TarInfo('folder')
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, size in zip(names, sizes, strict=False):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(rng.bytes(size)))
        link = tarfile.TarInfo('link')
        link.type, link.linkname = tarfile.SYMTYPE, 'a.txt'
        tar.addfile(link)
    data = buffer.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        want = [(m.name, tar.extractfile(m).read()) for m in tar if m.isreg()]
    found, ended = walk(data, seekable)
    assert ended and [n for n, _ in found] == [n for n, _ in want]
    for i, ((_, got), (_, content)) in enumerate(
        zip(found, want, strict=True)
    ):
        assert got == (content if i % 2 else None)


def test_large_sizes_are_binary():
    info = tarfile.TarInfo('x')
    info.size = 2**33 + 5
    block = info.tobuf(tarfile.GNU_FORMAT)
    walker = TarWalker(io.BytesIO(block))
    assert next(iter(walker)) == ('x', 2**33 + 5)


@pytest.mark.parametrize('seekable', [True, False])
def test_damage_is_found(tmp_path, seekable):
    path = write_tar(tmp_path / 'x.tar', [('a', b'1' * 600), ('b', b'2')])
    with open(path, 'rb') as file:
        data = file.read()
    for cut, text in (
        (300, 'within a header'),
        (700, "within 'a'"),
        (1500, "within 'a'"),
        (1536 + 100, 'within a header'),
        (2048 + 200, "within 'b'"),
    ):
        with pytest.raises(tarfile.ReadError, match=text):
            walk(data[:cut], seekable)
    # Between two members nothing tells but the missing mark.
    assert walk(data[:1536], seekable) == ([('a', None)], False)
    damaged = data[:1540] + b'#' + data[1541:]
    with pytest.raises(tarfile.ReadError, match='no tar, or it is damaged'):
        walk(damaged, seekable)
    for nothing in (b'', b'<html>not found</html>' * 99):
        with pytest.raises(tarfile.ReadError):
            walk(nothing, seekable)


@pytest.mark.parametrize('mode', ['gz', 'bz2', 'xz'])
def test_compressed_shards(tmp_path, mode):
    path = str(tmp_path / f'x.tar.{mode}')
    with tarfile.open(path, f'w:{mode}') as tar:
        for name in ('0.jpg', '0.txt', '1.jpg', '1.txt'):
            data = jpeg() if name.endswith('jpg') else b'text'
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    for address in (path, f'pipe:cat {path}'):
        dataset = ImageTextShards(address, 8, epochs=1)
        assert [s['keys'] for s in dataset] == ['x/0', 'x/1']


# pipes and addresses


def test_a_pipe_resumes_without_opening_what_was_used(tmp_path):
    """Used shards are not opened; used samples are not decoded."""
    write_shards(tmp_path, [4] * 4)
    log = tmp_path / 'log'
    shards = [
        f'pipe:echo {i} >> {log}; cat {tmp_path}/00{i}.tar' for i in range(4)
    ]

    def dataset():
        return ImageTextShards(shards, 16, shuffle_shards=False)

    straight = iter(loader(dataset(), 2))
    position = StreamPosition(dataset().state_dict())
    for _ in range(5):
        position.update(next(straight)['cursors'])
    log.unlink()
    resumed_set = dataset()
    resumed_set.load_state_dict(position.state_dict())
    decoded = []
    transform = resumed_set.transform
    resumed_set.transform = lambda *args: decoded.append(0) or transform(*args)
    resumed = next(iter(loader(resumed_set, 2)))
    assert resumed['keys'] == ['002/2_2', '002/2_3']
    assert torch.equal(resumed['inputs'], next(straight)['inputs'])
    assert log.read_text().split() == ['2'] and len(decoded) == 2


def test_a_failing_command_is_a_broken_shard(tmp_path):
    write_shards(tmp_path, [3])
    good = f'pipe:cat {tmp_path}/000.tar'
    # Writes all, then fails: what it wrote may not be whole.
    late = f'pipe:cat {tmp_path}/000.tar; exit 3'
    dataset = ImageTextShards(
        [good, 'pipe:exit 1', late],
        8,
        epochs=1,
        shuffle_shards=False,
        retries=0,
    )
    assert len(list(dataset)) == 6
    assert dataset.counter.broken == {'shard breaks off': 2}


def test_leaving_a_pipe_early_is_no_error(tmp_path):
    path = write_tar(tmp_path / 'x.tar', [('a', bytes(10**6))])
    for _ in range(3):
        with pytest.raises(KeyError), open_shard(f'pipe:cat {path}') as file:
            file.read(10)
            raise KeyError


@pytest.mark.parametrize('extra', [0, 100])
def test_a_remote_shard_is_opened_again(tmp_path, monkeypatch, extra):
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    path = write_tar(
        tmp_path / '0.tar',
        [
            (f'{i}.{e}', jpeg() if e == 'jpg' else b'text')
            for i in range(5)
            for e in ('jpg', 'txt')
        ],
    )
    half = (tmp_path / '0.tar').stat().st_size // 4 + extra
    flag = tmp_path / 'tried'
    flaky = (
        f'pipe:if [ -e {flag} ]; then cat {path}; else touch {flag}; '
        f'head -c {half} {path}; fi'
    )
    assert [s.index for s in read_shard(flaky, 0, retries=1)] == [*range(5)]
    flag.unlink()
    with pytest.raises(tarfile.ReadError, match='the tar ends with'):
        list(read_shard(flaky))


@pytest.mark.skipif(shutil.which('curl') is None, reason='needs curl')
def test_http_shards(tmp_path):
    write_shards(tmp_path, [3, 2])
    (tmp_path / '000.tar').write_bytes(
        gzip.compress((tmp_path / '000.tar').read_bytes())
    )

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            base = f'http://127.0.0.1:{server.server_port}/'
            dataset = ImageTextShards(
                base + '{000..001}.tar', 8, epochs=1, shuffle_shards=False
            )
            keys = [s['keys'] for s in dataset]
            missing = ImageTextShards(base + '9.tar', 8, retries=0)
            with pytest.raises(BrokenDataError, match='no readable sample'):
                next(iter(missing))
        finally:
            server.shutdown()
            thread.join()
    assert keys == ['000/0_0', '000/0_1', '000/0_2', '001/1_0', '001/1_1']


def test_object_stores_are_read_through_their_program(tmp_path, monkeypatch):
    """A stand-in for the aws program, first in the path."""
    write_shards(tmp_path, [2])
    program = tmp_path / 'aws'
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n'
        f'exec cat {tmp_path}/000.tar\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    dataset = ImageTextShards('s3://bucket/a/{0..0}.tar', 8, epochs=1)
    assert [s['keys'] for s in dataset] == ['0/0_0', '0/0_1']
    called = (tmp_path / 'called').read_text()
    assert called == 's3 cp --quiet s3://bucket/a/0.tar -\n'


def test_addresses_that_cannot_be_opened(monkeypatch):
    with pytest.raises(ValueError, match='kind gopher: cannot be opened'):
        ImageTextShards('gopher://h/0.tar', 8)
    monkeypatch.setenv('PATH', '')
    with pytest.raises(ValueError, match="'gsutil', which is not installed"):
        ImageTextShards('gs://b/0.tar', 8)


def test_paths_with_blanks_and_percent_signs(tmp_path):
    folder = tmp_path / 'a b%20c'
    folder.mkdir()
    write_shards(folder, [2])
    plain = str(folder / '000.tar')
    quoted = 'file:' + plain.replace('%', '%25').replace(' ', '%20')
    for address in (plain, quoted):
        assert count_samples(address) == 2
        assert len(list(ImageTextShards(address, 8, epochs=1))) == 2


# too much damage


def test_shards_that_cannot_be_read_stop_the_run(tmp_path):
    """Long before they are a share of the samples."""
    write_shards(tmp_path, [30] * 9)
    for number in (2, 5, 8):
        (tmp_path / f'00{number}.tar').write_bytes(b'<html>' * 200)
    dataset = ImageTextShards(
        str(tmp_path / '{000..008}.tar'),
        8,
        max_broken_share=0.3,
        shuffle_shards=False,
    )
    with pytest.raises(BrokenDataError, match='4 of 12 shards break off'):
        for _ in dataset:
            pass


@pytest.mark.parametrize('workers', [0, 1])
def test_the_sentence_survives_the_worker(tmp_path, workers):
    members = [
        (f'{i}.{e}', b'' if e == 'jpg' else b'text')
        for i in range(300)
        for e in ('jpg', 'txt')
    ]
    good = [
        (f'x{i}.{e}', jpeg() if e == 'jpg' else b'text')
        for i in range(180)
        for e in ('jpg', 'txt')
    ]
    path = write_tar(tmp_path / 'x.tar', good + members)
    with pytest.raises(BrokenDataError) as info:
        texts_of(loader(ImageTextShards(path, 8), 4, workers))
    assert is_user_error(info.value)
    assert info.value.sentence() == (
        '21 of 201 samples are broken (21 empty image file), more than '
        'max_broken_share=0.1; the last was sample x/20: empty image file'
    )


def test_the_share_is_checked():
    with pytest.raises(ValueError, match='within .0, 1., got 1.5'):
        ImageTextShards('pipe:true', 8, max_broken_share=1.5)


# what is read or reported the same by loader and tools


def pair(key, caption=b'text'):
    return [(f'{key}.jpg', jpeg()), (f'{key}.txt', caption)]


def read_all(path):
    """Keys that the loader delivers and what it counts."""
    dataset = ImageTextShards(
        str(path), 8, epochs=1, max_broken_share=1, shuffle_shards=False
    )
    keys = []
    with contextlib.suppress(BrokenDataError):  # where nothing can be read
        for sample in dataset:
            keys.append(sample['keys'].split('/', 1)[1])
    return keys, dict(dataset.counter.broken)


def check(path):
    (report,) = check_shards([str(path)])
    return report['samples'], report['problems']


def statistics(path):
    found = shard_statistics([str(path)])
    return found['samples'], found['problems']


def test_neighbours_with_one_key_are_two_samples(tmp_path):
    path = Path(write_tar(tmp_path / 'a.tar', pair('0') + pair('0')))
    assert read_all(path) == (['0', '0'], {})
    assert count_samples(str(path)) == statistics(path)[0] == 2
    assert check(path) == (2, {'key twice': 1})
    # A member that stands twice is a sample that lacks the others.
    path = Path(write_tar(tmp_path / 'b.tar', pair('0')[:1] + pair('0')))
    assert read_all(path) == (['0'], {'no caption': 1})
    assert check(path) == (2, {'no caption': 1, 'key twice': 1})


@pytest.mark.parametrize('padding', [0, 512, 10240])
def test_tars_one_after_another_are_read_as_one(tmp_path, padding):
    one = write_tar(tmp_path / 'a.tar', pair('0') + pair('1'))
    # Begins with the key that the first ends with.
    two = write_tar(tmp_path / 'b.tar', pair('1') + pair('2'))
    path = tmp_path / 'both.tar'
    path.write_bytes(
        Path(one).read_bytes() + bytes(padding) + Path(two).read_bytes()
    )
    assert read_all(path) == (['0', '1', '1', '2'], {})
    assert count_samples(str(path)) == statistics(path)[0] == 4
    assert check(path) == (4, {'key twice': 1})
    assert [s.index for s in read_shard(str(path), 2)] == [2, 3]
    piped = ImageTextShards(f'pipe:cat {path}', 8, epochs=1)
    assert len(list(piped)) == 4


def test_data_behind_the_end_is_told(tmp_path):
    path = tmp_path / 'x.tar'
    write_tar(path, pair('0') + pair('1'))
    path.write_bytes(path.read_bytes() + b'rest of something' * 99)
    keys, broken = read_all(path)
    assert keys == ['0', '1'] and broken == {'shard breaks off': 1}
    assert check(path) == (2, {'shard breaks off': 1})
    assert statistics(path) == (2, {'shard breaks off': 1})
    assert count_samples(str(path)) == 2


def test_names_with_dots(tmp_path):
    """Extensions with dots are extra data; keys with dots are lost samples."""
    path = tmp_path / 'x.tar'
    write_tar(
        path,
        [
            *pair('0'),
            ('1.depth.png', b'x'),
            *pair('1'),
            ('1.seg.txt', b'x'),
            *pair('22.00'),
            *pair('22.01'),
            ('22.02.jpg', jpeg()),
            *pair('3'),
            *pair('3.5'),
            *pair('4'),
        ],
    )
    lost = {'name with dots': 4}
    assert read_all(path) == (['0', '1', '3', '4'], lost)
    assert count_samples(str(path)) == 8
    assert check(path) == (8, lost) and statistics(path) == (8, lost)
    assert [s.key for s in read_shard(str(path), 3)] == [
        '22.01',
        '22.02',
        '3',
        '3.5',
        '4',
    ]
    # The place of the last in the order of all.
    assert [s.index for s in read_shard(str(path), 3)] == [*range(3, 8)]


def test_dots_are_extensions_where_captions_stand_there(tmp_path):
    path = write_tar(
        tmp_path / 'x.tar',
        [('0.jpg', jpeg()), ('0.long.txt', b'long'), ('0.txt', b'short')],
    )
    dataset = ImageTextShards(
        path, 8, epochs=1, captions=dict(keys='long.txt')
    )
    assert [sample['texts'] for sample in dataset] == ['long']


@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize('size', [1, 2])
def test_an_empty_shard_costs_nothing(tmp_path, shuffle, size):
    """Also where it is all that a stream has."""
    for number in range(4):
        write_tar(
            tmp_path / f'{number}.tar',
            []
            if number == 2
            else [
                member for i in range(size) for member in pair(f'{number}{i}')
            ],
        )
    pattern = str(tmp_path / '{0..3}.tar')

    def dataset():
        return ImageTextShards(
            pattern, 8, num_streams=4, shuffle_shards=shuffle
        )

    data = dataset()
    straight = iter(data)
    samples = [next(straight) for _ in range(40)]
    assert len({s['keys'] for s in samples}) == 3 * size
    assert not data.counter.num_broken and data.counter.empty_shards
    assert 'shards empty' in data.counter.summary()
    position = StreamPosition(dataset().state_dict())
    for sample in samples[:19]:
        position.update(torch.from_numpy(sample['cursors'])[None])
    resumed = dataset()
    resumed.load_state_dict(position.state_dict())
    assert [s['keys'] for s, _ in zip(resumed, range(21), strict=False)] == [
        s['keys'] for s in samples[19:]
    ]
    once = ImageTextShards(
        pattern, 8, num_streams=4, epochs=1, shuffle_shards=shuffle
    )
    assert len(list(once)) == 3 * size
    assert check(tmp_path / '2.tar') == (0, {'empty shard': 1})
    assert statistics(tmp_path / '2.tar') == (0, {'empty shard': 1})


def headers_of(name, size=0, kind=b'0'):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def with_number(block, place, value):
    """A header with another number, and the sum that belongs to it."""
    block = bytearray(block)
    block[place : place + len(value)] = value
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block)


def damaged_tars():
    header = headers_of('1.jpg', 5)
    sizes = {
        'negative size': b'\xff' + bytes(11),
        'size of 2 to the 94': b'\x80\x7f' + b'\xff' * 10,
        'size of 8 EB': b'\x80' + bytes(3) + b'\x7f' + b'\xff' * 7,
        'size of 4 GB': b'40000000000\0',
    }
    found = {
        name: with_number(header, 124, value) for name, value in sizes.items()
    }
    for name, record in (
        ('no number', b'xx path=a\n'),
        ('zero length', b'0 path=a\n'),
        ('too long', b'99 path=a\n'),
        ('no equals sign', b'9 patha\n'),
        ('long number', b'9' * 400 + b' path=a\n'),
        ('size is no number', b'10 size=x\n'),
        ('negative', b'11 size=-5\n'),
    ):
        found[f'attributes: {name}'] = (
            headers_of('x', len(record), b'x')
            + record.ljust(512, b'\0')
            + header
        )
    found['attributes of 1 GB'] = headers_of('x', 1 << 30, b'x')
    found['long name of 1 GB'] = headers_of('x', 1 << 30, b'L')
    return found


@pytest.mark.parametrize('opener', [None, gzip, bz2, lzma])
@pytest.mark.parametrize('name', damaged_tars())
def test_damaged_headers_are_answered_with_a_count(tmp_path, name, opener):
    start = write_tar(tmp_path / 'a.tar', pair('0') + pair('9'))
    end = tarfile.open(start).getmembers()[-1].offset_data + 512
    data = Path(start).read_bytes()[:end] + damaged_tars()[name]
    path = tmp_path / 'x.tar'
    path.write_bytes(data if opener is None else opener.compress(data))
    keys, broken = read_all(path)
    # A key ends where another begins, so the last may be lost, too.
    assert keys == (['0', '9'] if name.startswith('size') else ['0'])
    assert broken == {'shard breaks off': 1}
    assert count_samples(str(path)) == len(keys)
    assert check(path) == statistics(path) == (len(keys), broken)


@pytest.mark.parametrize('opener', [gzip, bz2, lzma])
def test_damaged_compression_is_answered_with_a_count(tmp_path, opener):
    members = [m for i in range(200) for m in pair(str(i))]
    whole = opener.compress(
        Path(write_tar(tmp_path / 'a.tar', members)).read_bytes()
    )
    path = tmp_path / 'x.tar'
    for place in (len(whole) // 3, len(whole) - 6):
        for damaged in (
            whole[:place],
            whole[:place] + b'\x55\xaa\xff' + whole[place + 3 :],
        ):
            path.write_bytes(damaged)
            keys, broken = read_all(path)
            assert len(keys) == count_samples(str(path)) == check(path)[0]
            assert broken == check(path)[1] == {'shard breaks off': 1}


def test_a_file_too_large_is_that_samples_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_reader, 'MAX_MEMBER', 5000)
    path = write_tar(
        tmp_path / 'x.tar', [*pair('0'), *pair('1', bytes(6000)), *pair('2')]
    )
    assert read_all(path) == (['0', '2'], {'file too large': 1})
    assert check(path) == (3, {'file too large': 1})


@pytest.mark.parametrize('form', ['gnu', 'posix'])
@pytest.mark.parametrize('holes', [1, 40])
def test_a_sparse_file_is_that_samples_fault(tmp_path, form, holes):
    if shutil.which('tar') is None:
        pytest.skip('tar is not installed')
    names = [f'{i}.{kind}' for i in range(3) for kind in ('jpg', 'txt')]
    for name in names:
        (tmp_path / name).write_bytes(jpeg() if name.endswith('jpg') else b'a')
    with open(tmp_path / '1.jpg', 'r+b') as file:
        for hole in range(1, holes + 1):
            file.seek(hole << 16)
            file.write(b'x' * 4096)
    path = tmp_path / 'x.tar'
    subprocess.run(
        ['tar', '-cSf', str(path), f'--format={form}', *names],
        cwd=tmp_path,
        check=True,
    )
    assert path.stat().st_size < (holes + 20) << 13  # it has holes indeed
    assert read_all(path) == (['0', '2'], {'sparse file': 1})
    assert check(path) == (3, {'sparse file': 1})
    assert count_samples(str(path)) == 3
    with open(path, 'rb') as file:
        pipe = [name for name, _ in TarWalker(io.BytesIO(file.read()))]
    assert pipe == names


def test_names_that_are_no_text_can_be_printed(tmp_path):
    info = tarfile.TarInfo(b'a\xff.jpg'.decode('utf-8', 'surrogateescape'))
    block = info.tobuf(tarfile.GNU_FORMAT, errors='surrogateescape')
    path = tmp_path / 'x.tar'
    path.write_bytes(block + bytes(1024))
    (sample,) = read_shard(str(path))
    assert sample.key == 'a\\xff'


# whatever a sample raises is its own fault


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError,
        NotImplementedError,
        MemoryError,
        RecursionError,
        zlib.error,
        OverflowError,
        KeyError,
        AssertionError,
    ],
)
@pytest.mark.parametrize(
    'where',
    [
        'cv2.imdecode',
        'json.loads',
        'dito.datasets.image_text.captions.clean_text',
    ],
)
def test_any_exception_is_the_samples_fault(
    tmp_path, monkeypatch, error, where
):
    def fail(*args):
        raise error('of a decoder')

    path = write_tar(
        tmp_path / 'x.tar', [('0.jpg', jpeg()), ('0.json', b'{"a": "text"}')]
    )
    arguments = dict(epochs=1, captions=dict(keys='json.a'))
    assert len(list(ImageTextShards(path, 8, **arguments))) == 1
    # Else simplejpeg decodes it, where that is installed.
    monkeypatch.setattr('dito.datasets.image_text.transforms.simplejpeg', None)
    monkeypatch.setattr(where, fail)
    dataset = ImageTextShards(path, 8, **arguments)
    assert not list(dataset) and dataset.counter.num_broken == 1
    (report,) = check_shards([path], captions=['json.a'])
    assert sum(report['problems'].values()) == 1


def test_an_interruption_is_nobodys_fault(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    path = write_tar(tmp_path / 'x.tar', pair('0'))
    monkeypatch.setattr('dito.datasets.image_text.transforms.simplejpeg', None)
    monkeypatch.setattr('cv2.imdecode', interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(ImageTextShards(path, 8, epochs=1))


@pytest.mark.parametrize(
    'metadata',
    [
        b'[' * 100_000,
        b'{"a":' * 100_000,
        b'{"s": 1' + b'0' * 400 + b'}',
        b'{"s": ' + b'1' * 5000 + b'}',
        b'\xff\xfe',
        b'{"s": 1',
    ],
)
def test_json_that_cannot_be_used(tmp_path, metadata):
    path = write_tar(
        tmp_path / 'x.tar',
        [*pair('0'), ('0.json', metadata), *pair('1'), ('1.json', b'{"s":1}')],
    )
    dataset = ImageTextShards(
        path, 8, epochs=1, max_broken_share=1, filters=[dict(field='s', min=0)]
    )
    assert [s['keys'] for s in dataset] == ['x/1']
    assert dataset.counter.num_broken == 1
