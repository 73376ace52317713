# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Making, checking and describing shards, through their tools' mains."""

import csv
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from image_text_files import jpeg, photo, write_tar
from PIL import Image

from dito.cli.shards import check_shards, pairs2shards, shard_stats
from dito.datasets.image_text import ImageTextShards
from dito.datasets.image_text.tar_walk import expand_shards
from dito.datasets.shard_files import read_pairs
from dito.datasets.shard_files.write import prepare_image


def write_folder(root, number=7):
    """Images with texts, in sub-folders, two of them of no use."""
    for i in range(number):
        folder = root / f'part{i % 2}'
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{i}.jpg').write_bytes(jpeg(24, 32, 20 * i))
        (folder / f'{i}.txt').write_text(f' photo\n {i} ')
    (root / 'broken.png').write_bytes(b'no image')
    (root / 'broken.txt').write_text('broken')
    (root / 'alone.jpg').write_bytes(jpeg())
    return str(root)


def convert(*args):
    return pairs2shards([*map(str, args), '--workers', '1'])


def read_tar(path):
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}


def test_a_folder_becomes_shards(tmp_path, capsys):
    source, out = write_folder(tmp_path / 'in'), tmp_path / 'out'
    assert (
        convert(
            source,
            '--out-dir',
            out,
            '--shard-size',
            4,
            '--prefix',
            'p-',
            '--max-broken-share',
            0.3,
        )
        == 0
    )
    assert '7 of 9 pairs in 3 shards' in capsys.readouterr().out
    manifest = json.loads((out / 'manifest.json').read_text())
    assert manifest['samples'] == 7
    assert manifest['skipped'] == {
        'image cannot be decoded': 1,
        'no caption': 1,
    }
    for shard in manifest['shards']:
        data = (out / shard['name']).read_bytes()
        assert shard['bytes'] == len(data)
        assert shard['sha256'] == hashlib.sha256(data).hexdigest()
    # Nothing is left but shards and manifest.
    names = ['manifest.json'] + [f'p-00000{i}.tar' for i in range(3)]
    assert sorted(p.name for p in out.iterdir()) == names
    dataset = ImageTextShards(
        [str(out / name) for name in names[1:]],
        16,
        epochs=1,
        filters=[dict(field='width', min=32)],
    )
    assert {s['texts'] for s in dataset} == {f'photo {i}' for i in range(7)}
    members = read_tar(out / names[1])
    key = min(members)[:9]
    details = json.loads(members[f'{key}.json'])
    assert (details['width'], details['height']) == (32, 24)
    image = members[f'{key}.jpg']
    assert details['sha256'] == hashlib.sha256(image).hexdigest()
    assert image == next(
        p.read_bytes()
        for p in Path(source).rglob('*.jpg')
        if p.with_suffix('.txt').is_file()
        and ' '.join(p.with_suffix('.txt').read_text().split())
        == details['caption']
    )


def test_the_bytes_do_not_depend_on_processes(tmp_path):
    source = write_folder(tmp_path / 'in')
    for workers in (1, 2):
        pairs2shards(
            [
                source,
                '--out-dir',
                str(tmp_path / str(workers)),
                '--shard-size',
                '4',
                '--workers',
                str(workers),
                '--max-broken-share',
                '1',
            ]
        )
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / w).iterdir()}
        for w in '12'
    )
    assert one == two and len(one) == 4
    convert(
        source,
        '--out-dir',
        tmp_path / '3',
        '--seed',
        1,
        '--shard-size',
        4,
        '--max-broken-share',
        1,
    )
    assert (tmp_path / '3' / '000000.tar').read_bytes() != one['000000.tar']


def test_a_broken_off_run_goes_on(tmp_path, monkeypatch):
    source, out = write_folder(tmp_path / 'in'), tmp_path / 'out'
    args = (
        source,
        '--out-dir',
        out,
        '--shard-size',
        3,
        '--max-broken-share',
        1,
    )
    calls = []

    def prepare(data, *rest):
        calls.append(0)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return prepare_image(data, *rest)

    monkeypatch.setattr(
        'dito.datasets.shard_files.write.prepare_image', prepare
    )
    assert convert(*args) == 130  # as by Ctrl-C
    assert not (out / 'manifest.json').exists()
    assert sorted(p.name for p in out.glob('*.tar')) == ['000000.tar']
    assert not list(out.glob('.*.part'))
    before = (out / '000000.tar').stat().st_mtime_ns
    assert convert(*args) == 0
    assert (out / '000000.tar').stat().st_mtime_ns == before
    assert check_shards([str(out), '--workers', '1']) == 0


def test_an_earlier_set_is_replaced_only_on_demand(tmp_path, capsys):
    source, out = write_folder(tmp_path / 'in'), tmp_path / 'out'
    args = (source, '--out-dir', out, '--max-broken-share', 1, '--shard-size')
    assert convert(*args, 3) == 0
    assert convert(*args, 5) == 2
    assert 'pass --overwrite' in capsys.readouterr().err
    assert convert(*args, 5, '--overwrite') == 0
    assert sorted(p.name for p in out.iterdir()) == [
        '000000.tar',
        '000001.tar',
        'manifest.json',
    ]


@pytest.mark.parametrize('kind', ['csv', 'tsv', 'jsonl', 'parquet'])
def test_tables(tmp_path, kind):
    (tmp_path / 'img').mkdir()
    rows = []
    for i in range(3):
        (tmp_path / 'img' / f'{i}.jpg').write_bytes(jpeg())
        rows.append(
            dict(file=f'img/{i}.jpg', text=f'naïve, "{i}"', similarity=i / 4)
        )
    table = tmp_path / f'pairs.{kind}'
    if kind == 'parquet':
        pyarrow = pytest.importorskip('pyarrow')
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    elif kind == 'jsonl':
        table.write_text('\n'.join(map(json.dumps, rows)) + '\n\n')
    else:
        with open(table, 'w', newline='', encoding='utf-8-sig') as file:
            writer = csv.DictWriter(
                file, rows[0], delimiter='\t' if kind == 'tsv' else ','
            )
            writer.writeheader()
            writer.writerows(rows)
    out = tmp_path / 'out'
    assert (
        convert(
            table,
            '--out-dir',
            out,
            '--image-column',
            'file',
            '--caption-column',
            'text',
            '--keep-order',
        )
        == 0
    )
    dataset = ImageTextShards(
        str(out / '000000.tar'),
        8,
        epochs=1,
        filters=[dict(field='similarity', min=0.2)],
    )
    assert [s['texts'] for s in dataset] == ['naïve, "1"', 'naïve, "2"']


def test_wrong_sources_are_one_sentence(tmp_path, capsys, monkeypatch):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'a.csv').write_text('file,caption\nx.jpg,y\n')
    (tmp_path / 'a.jsonl').write_text('{"path":\n')
    (tmp_path / 'a.parquet').write_bytes(b'PAR1')
    (tmp_path / 'a.xls').write_bytes(b'')
    (tmp_path / 'b.csv').write_bytes(
        'path,caption\nx.jpg,Größe\n'.encode('latin-1')
    )
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    for name, text in (
        ('empty', 'holds no pair'),
        ('none', 'no folder'),
        ('a.csv', "has no column 'path'"),
        ('b.csv', 'not in UTF-8'),
        ('a.jsonl', 'line 1 of'),
        ('a.xls', 'no table'),
        ('a.parquet', 'pip install pyarrow'),
    ):
        assert convert(tmp_path / name, '--out-dir', tmp_path / 'out') == 2
        error = capsys.readouterr().err
        assert text in error and error.count('\n') == 1
    for option in ('--quality', '--shard-size'):
        assert (
            convert(
                tmp_path / 'a.csv',
                '--image-column',
                'file',
                '--out-dir',
                tmp_path / 'out',
                option,
                0,
            )
            == 2
        )
        assert 'got 0' in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['bmp', 'gif', 'tif', 'TIFF', 'jfif'])
def test_a_folder_of_other_formats(tmp_path, kind):
    source, out = tmp_path / 'in', tmp_path / 'out'
    source.mkdir()
    name = dict(tif='TIFF', jfif='JPEG').get(kind, kind)
    Image.new('RGB', (8, 8), 'red').save(source / f'a.{kind}', name)
    (source / 'a.txt').write_text('a red square')
    assert convert(source, '--out-dir', out) == 0
    members = read_tar(out / '000000.tar')
    assert members['000000000.txt'] == b'a red square'
    assert members['000000000.jpg'][:2] == b'\xff\xd8'


def test_too_many_unusable_pairs(tmp_path, capsys):
    source, out = write_folder(tmp_path / 'in'), tmp_path / 'out'
    assert convert(source, '--out-dir', out) == 2
    assert '2 of 9 pairs cannot be used (1 ' in capsys.readouterr().err
    assert not (out / 'manifest.json').exists()
    (tmp_path / 'a.csv').write_text('path,caption\nnone.jpg,x\n')
    assert convert(tmp_path / 'a.csv', '--out-dir', out) == 2
    assert '1 file cannot be read' in capsys.readouterr().err


# images


def encoded(image, kind='JPEG', **kwargs):
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def test_sound_images_are_kept_byte_for_byte():
    for data in (
        photo(60, 80),
        encoded(Image.new('P', (9, 8)), 'PNG'),
        encoded(Image.new('RGB', (9, 8)), 'WEBP'),
    ):
        assert prepare_image(data).data == data
        assert prepare_image(data, 60).data == data


def test_large_images_are_shrunk():
    data = photo(120, 200)
    image = prepare_image(data, 60)
    assert (image.width, image.height, image.extension) == (100, 60, 'jpg')
    assert (image.original_width, image.original_height) == (200, 120)
    want = Image.open(io.BytesIO(data)).resize((100, 60), 3)
    got = np.asarray(Image.open(io.BytesIO(image.data)), float)
    assert np.abs(got - np.asarray(want)).mean() < 2


@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_are_turned_upright(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.open(io.BytesIO(photo(60, 80))), exif=exif)
    image = prepare_image(data)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    got = Image.open(io.BytesIO(image.data))
    assert got.size == want.size == (image.width, image.height)
    assert np.abs(np.asarray(got, float) - np.asarray(want)).mean() < 2
    if orientation > 1:
        assert got.getexif().get(0x0112, 1) == 1


def test_other_formats_become_jpeg():
    image = prepare_image(encoded(Image.new('P', (9, 8)), 'GIF'))
    assert image.extension == 'jpg'
    assert Image.open(io.BytesIO(image.data)).format == 'JPEG'


# check


def make_set(tmp_path):
    out = tmp_path / 'out'
    assert (
        convert(
            write_folder(tmp_path / 'in'),
            '--out-dir',
            out,
            '--shard-size',
            3,
            '--max-broken-share',
            1,
        )
        == 0
    )
    return out


def problems_of(tmp_path, *args):
    file = tmp_path / 'found.json'
    code = check_shards(
        [*map(str, args), '--workers', '1', '--json', str(file)]
    )
    found = json.loads(file.read_text())
    assert code == (1 if found['problems'] else 0) == 1 - found['ok']
    return found['problems']


def test_a_sound_set_passes(tmp_path):
    out = make_set(tmp_path)
    assert problems_of(tmp_path, out) == {}
    assert (
        problems_of(
            tmp_path,
            out / '{000000..000002}.tar',
            '--manifest',
            out / 'manifest.json',
            '--no-decode',
        )
        == {}
    )


def test_changes_since_the_manifest_are_found(tmp_path):
    out = make_set(tmp_path)
    data = bytearray((out / '000000.tar').read_bytes())
    data[-1] ^= 1  # behind the end, where no data belongs
    (out / '000000.tar').write_bytes(data)
    (out / '000001.tar').unlink()
    write_tar(out / '7.tar', [('a.jpg', jpeg()), ('a.txt', b'x')])
    assert problems_of(tmp_path, out) == {
        'other checksum': 1,
        'shard missing': 1,
        'not in the manifest': 1,
        'shard breaks off': 1,
    }
    short = (out / '000002.tar').read_bytes()[:1500]
    (out / '000002.tar').write_bytes(short)
    found = problems_of(tmp_path, out)
    assert (found['other size'], found['shard breaks off']) == (1, 2)
    assert found['other number of samples'] == 1


def test_broken_samples_are_found(tmp_path, capsys):
    path = write_tar(
        tmp_path / 'x.tar',
        [
            ('a.jpg', jpeg()),
            ('a.txt', b'x'),
            ('b.jpg', b''),
            ('b.txt', b'x'),
            ('c.jpg', jpeg()[:-9]),
            ('c.txt', b'x'),
            ('d.jpg', jpeg()),
            ('d.txt', b' '),
            ('e.txt', b'x'),
            ('a.jpg', jpeg()),
            ('a.txt', b'x'),
            ('f.jpg', jpeg()),
            ('f.txt', b'x'),
            ('f.json', b'{'),
        ],
    )
    assert problems_of(tmp_path, path) == {
        'empty image file': 1,
        'image cannot be decoded': 1,
        'empty caption': 1,
        'no image': 1,
        'key twice': 1,
        'json cannot be read': 1,
    }
    out = capsys.readouterr().out
    assert '7 samples in 1 shard:' in out and 'c: image cannot be' in out
    # The size alone is sound.
    assert 'image cannot be decoded' not in problems_of(
        tmp_path, path, '--no-decode'
    )
    data = Path(path).read_bytes()
    whole = write_tar(tmp_path / 'y.tar', [('a.jpg', jpeg()), ('a.txt', b'x')])
    cut = tarfile.open(whole).getmembers()[-1].offset_data + 512
    Path(whole).write_bytes(Path(whole).read_bytes()[:cut])
    assert problems_of(tmp_path, whole) == {'no end mark': 1}
    Path(path).write_bytes(data[:700])
    assert problems_of(tmp_path, path) == {'shard breaks off': 1}


def test_what_cannot_be_checked_is_one_sentence(tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    path = write_tar(tmp_path / 'x.tar', [])
    (tmp_path / 'manifest.json').write_text('{}')
    assert expand_shards(str(tmp_path / '?.t*')) == [path]
    for args, text in (
        ([tmp_path / 'empty'], 'no .tar file'),
        ([tmp_path / 'no.tar'], '1 of 1 shards are missing'),
        ([tmp_path / 'no-*.tar'], 'No shard fits the pattern'),
        ([path, '--manifest', tmp_path / 'no.json'], 'no manifest'),
        ([tmp_path], 'is no manifest of shards'),
    ):
        assert check_shards([*map(str, args)]) == 2
        assert text in capsys.readouterr().err


# statistics


def test_statistics(tmp_path, capsys):
    one = write_tar(
        tmp_path / 'a.tar',
        [
            ('0.jpg', jpeg(24, 32)),
            ('0.txt', b'a cat'),
            ('1.png', jpeg(200, 300, extension='.png')),
            ('1.txt', b'a big dog'),
            ('2.jpg', b''),
            ('2.txt', b'x'),
        ],
    )
    two = write_tar(
        tmp_path / 'b.tar',
        [
            ('0.jpg', jpeg(500, 100)),
            ('0.txt', b'a cat'),
            ('3.jpg', jpeg(224, 224)),
            ('3.txt', b'words words words x'),
        ],
    )
    file = tmp_path / 'stats.json'
    assert shard_stats([one, two, '--workers', '1', '--json', str(file)]) == 0
    found = json.loads(file.read_text())
    assert (found['shards'], found['samples']) == (2, 5)
    assert found['problems'] == {'empty image file': 1}
    assert found['formats'] == dict(jpg=3, png=1)
    assert found['duplicate_keys'] == found['duplicate_captions'] == 1
    assert found['caption_words']['mean'] == 11 / 4
    assert found['caption_chars']['max'] == 19
    assert found['width']['min'] == 32 and found['height']['max'] == 500
    assert found['aspect']['min'] == 0.2
    sides = found['shorter_side']
    assert sum(sides.values()) == 4
    assert (sides['<= 64'], sides['<= 128'], sides['<= 224']) == (1, 1, 2)
    assert found['total_image_bytes'] == 4 * found['image_bytes']['mean']
    assert 'caption, words' in capsys.readouterr().out


def test_statistics_of_nothing(tmp_path, capsys):
    path = write_tar(tmp_path / 'x.tar', [])
    Path(path).write_bytes(b'<html>' * 100)
    assert shard_stats([path]) == 0
    assert 'problems: shard breaks off' in capsys.readouterr().out


def test_a_folder_is_read_in_order(tmp_path):
    source = write_folder(tmp_path / 'in')
    paths = [pair.path for pair in read_pairs(source)]
    assert len(paths) == 9 and paths == sorted(
        paths, key=lambda p: (str(Path(p).parent), p)
    )


# tables of captions


def table_of(tmp_path, name, content, encoding='utf-8'):
    (tmp_path / 'img').mkdir(exist_ok=True)
    for i in range(4):
        (tmp_path / 'img' / f'{i}.jpg').write_bytes(jpeg(value=50 * i))
    path = tmp_path / name
    path.write_bytes(content.encode(encoding))
    return path


def captions_of(tmp_path, path, *args):
    """Captions in the shards and what was left out."""
    out = tmp_path / 'out'
    assert (
        convert(
            path,
            '--out-dir',
            out,
            '--keep-order',
            '--overwrite',
            '--max-broken-share',
            0.8,
            *args,
        )
        == 0
    )
    members = read_tar(out / '000000.tar')
    texts = [
        data.decode()
        for name, data in members.items()
        if name.endswith('.txt')
    ]
    return texts, json.loads((out / 'manifest.json').read_text())['skipped']


@pytest.mark.parametrize(
    'encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32']
)
@pytest.mark.parametrize('kind', ['csv', 'tsv', 'jsonl', 'txt'])
def test_captions_in_any_marked_encoding(tmp_path, kind, encoding):
    if kind == 'txt':
        path = table_of(tmp_path, 'img/0.txt', ' größer ☂\r\n', encoding)
        assert captions_of(tmp_path, path.parent) == (
            ['größer ☂'],
            {'no caption': 3},
        )
        return
    rows = dict(
        csv='path,caption\r\nimg/0.jpg,größer ☂\r\n',
        tsv='path\tcaption\r\nimg/0.jpg\tgrößer ☂\r\n',
        jsonl='{"path": "img/0.jpg", "caption": "größer ☂"}\r\n',
    )
    path = table_of(tmp_path, f'a.{kind}', rows[kind], encoding)
    assert captions_of(tmp_path, path) == (['größer ☂'], {})


@pytest.mark.parametrize('kind, separator', [('csv', ','), ('tsv', '\t')])
def test_missing_values_of_tables_are_no_captions(tmp_path, kind, separator):
    captions = ['NaN', 'nan', '<NA>', 'NULL', 'None', 'N/A', '', 'nan bread']
    lines = [
        ('path', 'caption'),
        *((f'img/{i}.jpg', c) for i, c in enumerate(captions)),
    ]
    path = table_of(
        tmp_path, f'a.{kind}', '\n'.join(map(separator.join, lines))
    )
    found = [(p.caption or '').strip() for p in read_pairs(str(path))]
    assert found == [''] * 7 + ['nan bread']


@pytest.mark.parametrize(
    'cell, want',
    [
        ("['a key', 'a blue key']", ['a key', 'a blue key']),
        ("['a key' 'a blue key']", ['a key', 'a blue key']),  # an array's
        ('["a key", null, "b"]', ['a key', 'b']),
        ("['a', nan]", ['a']),
        ('[null]', []),
        ('[]', []),
        ('["it\'s", "b]"]', ["it's", 'b]']),
        ("['90s style] party", ["['90s style] party"]),
        ("['a'] and ['b']", ["['a'] and ['b']"]),
        ("['a'] + x", ["['a'] + x"]),
        ('[no] parking', ['[no] parking']),
    ],
)
def test_lists_written_into_a_field(tmp_path, cell, want):
    path = table_of(tmp_path, 'a.tsv', f'path\tcaption\nx.jpg\t{cell}\n')
    (pair,) = read_pairs(str(path))
    assert pair.extra.get('captions', [pair.caption]) == (want or [None])


def test_folders_of_cameras_and_new_formats(tmp_path):
    for name in ('A.JPG', 'b.avif', 'c.heic', 'd.jpg'):
        (tmp_path / name).write_bytes(jpeg())
    for name in ('A.TXT', 'b.txt', 'c.txt', 'd.txt', 'D.TXT'):
        (tmp_path / name).write_text(name)
    found = {p.path[-6:]: p.caption for p in read_pairs(str(tmp_path))}
    assert [*found.values()] == ['A.TXT', 'b.txt', 'c.txt', 'd.txt']


@pytest.mark.parametrize('encoding', ['utf-16-le', 'utf-16-be'])
def test_tables_in_unmarked_encodings_are_refused(tmp_path, encoding):
    path = table_of(tmp_path, 'a.csv', 'path,caption\n0.jpg,a key\n', encoding)
    with pytest.raises(ValueError, match='as in UTF-16 without a byte-order'):
        read_pairs(str(path))


@pytest.mark.parametrize('encoding', ['latin-1', 'utf-16-le', 'utf-16-be'])
def test_unmarked_encodings_are_counted(tmp_path, encoding, capsys):
    for name, text in (('0', 'größer'), ('1', 'größer')):
        table_of(tmp_path, f'img/{name}.txt', text, encoding)
    table_of(tmp_path, 'img/2.txt', 'plain')
    assert captions_of(tmp_path, tmp_path / 'img') == (
        ['plain'],
        {'caption not in UTF-8': 2, 'no caption': 1},
    )
    assert 'img/0.txt: caption not in UTF-8' in capsys.readouterr().err
    path = write_tar(
        tmp_path / 'x.tar',
        [
            ('0.jpg', jpeg()),
            ('0.txt', 'größer'.encode(encoding)),
            ('1.jpg', jpeg()),
            ('1.txt', 'größer'.encode('utf-16')),
        ],
    )
    assert problems_of(tmp_path, path) == {'caption not in UTF-8': 1}
    assert [s['texts'] for s in ImageTextShards(path, 8, epochs=1)] == [
        'größer'
    ]


@pytest.mark.parametrize(
    'field,want',
    [
        ('"Sunset over the bay', '"Sunset over the bay'),
        ('a 5" pipe', 'a 5" pipe'),
        ('"Stop"', '"Stop"'),
        ('"Stop" he said "now"', '"Stop" he said "now"'),
        ('"a ""blue"" key"', 'a "blue" key'),
        ('a, b', 'a, b'),
        ("'x", "'x"),
    ],
)
def test_tabs_need_no_quotation_marks(tmp_path, field, want):
    path = table_of(
        tmp_path,
        'a.tsv',
        'path\tcaption\n'
        + ''.join(f'img/{i}.jpg\t{field}\n' for i in range(3)),
    )
    assert captions_of(tmp_path, path) == ([want] * 3, {})


def test_rows_of_another_length_are_counted_and_named(tmp_path, capsys):
    path = table_of(
        tmp_path,
        'a.csv',
        (
            'path,caption,score\nimg/0.jpg,a key, red,1\n'
            'img/1.jpg,"a key, red",1\n\nimg/2.jpg\nimg/3.jpg,"two\nlines",1\n'
        ),
    )
    assert captions_of(tmp_path, path) == (
        ['a key, red', 'two lines'],
        {'other number of fields': 2},
    )
    error = capsys.readouterr().err
    assert 'line 2 of' in error and 'has 4, the header 3' in error
    assert 'line 5 of' in error and 'has 1, the header 3' in error
    assert convert(path, '--out-dir', tmp_path / 'strict') == 2
    error = capsys.readouterr().err
    assert '2 of 4 pairs cannot be used (2 other number of' in error
    assert 'the first: line 2 of' in error


@pytest.mark.parametrize(
    'text,message',
    [
        (
            'path,caption\nimg/0.jpg,"never closed\nimg/1.jpg,x\n',
            'from line 2 on',
        ),
        ('path,caption\nimg/0.jpg,"a" key\n', 'from line 2 on'),
        ('path,caption,caption\nimg/0.jpg,a,b\n', "two columns 'caption'"),
        ('path;caption\nimg/0.jpg;x\n', "no column 'caption'"),
        ('', 'holds no pair'),
        ('path,caption\n', 'holds no pair'),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, capsys, text, message):
    path = table_of(tmp_path, 'a.csv', text)
    assert convert(path, '--out-dir', tmp_path / 'out') == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


@pytest.mark.parametrize(
    'value,want,reason',
    [
        (['a blue key', 'a key'], 'a blue key', None),
        (['', None, 'a key'], 'a key', None),
        ([], None, 'no caption'),
        (None, None, 'no caption'),
        (float('nan'), None, 'no caption'),
        ('', None, 'empty caption'),
        (2012, '2012', None),
        (1.5, '1.5', None),
        (True, None, 'caption is no text'),
        ({'a': 1}, None, 'caption is no text'),
        ("['a blue key', 'a key']", 'a blue key', None),
        ('["a blue key", "a key"]', 'a blue key', None),
        ("['a key' is no list", "['a key' is no list", None),
        ('[a key]', '[a key]', None),
        ('cut \ud83d', 'cut \ufffd', None),
        ('\ud83d\ude00', '😀', None),
        ('a\0b', 'a b', None),
    ],
)
def test_captions_of_all_kinds(tmp_path, value, want, reason):
    rows = [
        dict(path='img/0.jpg', caption='first'),
        dict(path='img/1.jpg', caption=value),
    ]
    path = table_of(tmp_path, 'a.jsonl', '\n'.join(map(json.dumps, rows)))
    texts, skipped = captions_of(tmp_path, path)
    assert texts == ['first', want][: 1 if want is None else 2]
    assert skipped == ({} if reason is None else {reason: 1})


def test_all_captions_of_a_list_go_into_the_json(tmp_path):
    path = table_of(
        tmp_path,
        'a.jsonl',
        json.dumps(
            dict(path='img/0.jpg', caption=['a blue key', ' ', 'a key'])
        ),
    )
    captions_of(tmp_path, path)
    dataset = ImageTextShards(
        str(tmp_path / 'out' / '000000.tar'),
        8,
        captions=dict(keys='json.captions', choice='random'),
    )
    texts = {s['texts'] for s, _ in zip(dataset, range(40), strict=False)}
    assert texts == {'a blue key', 'a key'}


def test_lists_of_captions_in_parquet(tmp_path):
    pyarrow = pytest.importorskip('pyarrow')
    from pyarrow import parquet

    path = table_of(tmp_path, 'a.parquet', '')
    rows = [
        dict(path=f'img/{i}.jpg', caption=value)
        for i, value in enumerate((['a blue key', 'a key'], [], None, ['x']))
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert captions_of(tmp_path, path) == (
        ['a blue key', 'x'],
        {'no caption': 2},
    )


@pytest.mark.parametrize(
    'value', [None, 3, '', 'img', '/dev/zero', 'a\0b', ['img/1.jpg']]
)
def test_a_path_that_is_none_costs_one_pair(tmp_path, value):
    rows = [
        dict(path='img/0.jpg', caption='first'),
        dict(path=value, caption='second'),
        dict(caption='third'),
    ]
    path = table_of(tmp_path, 'a.jsonl', '\n'.join(map(json.dumps, rows)))
    texts, skipped = captions_of(tmp_path, path)
    assert texts == ['first'] and sum(skipped.values()) == 2


def test_a_damaged_manifest_or_record_is_no_crash(tmp_path, capsys):
    out = make_set(tmp_path)
    whole = json.loads((out / 'manifest.json').read_text())
    for key, value in (
        ('bytes', 'x'),
        ('samples', None),
        ('sha256', 3),
        ('name', '../a.tar'),
        ('name', 'manifest.json'),
    ):
        damaged = json.loads(json.dumps(whole))
        damaged['shards'][0][key] = value
        (out / 'manifest.json').write_text(json.dumps(damaged))
        assert check_shards([str(out)]) == 2
        assert 'is no manifest of shards' in capsys.readouterr().err
    (out / 'manifest.json').unlink()
    for content in (b'', b'{"plan":', b'\xff', b'[]', b'{}'):
        (out / '.000000.tar.record.json').write_bytes(content)
        assert (
            convert(
                tmp_path / 'in',
                '--out-dir',
                out,
                '--shard-size',
                3,
                '--max-broken-share',
                1,
                '--overwrite',
            )
            == 0
        )
