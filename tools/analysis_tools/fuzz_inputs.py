# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Sound inputs of each kind, and ways to damage them.

Everything is made here, small, from a seed; what is code in an input (a
pickle, a tag of yaml, a command, an import) makes the file CANARY of the
current folder if anything runs it.
"""

import copy
import io
import json
import pickle
import struct
import tarfile
import zipfile
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

CANARY = 'canary'
COMMAND = f'touch {CANARY}'
_DEEP = '"\u2193"'
# Programs and modules of the current folder that only a payload calls.
BAIT = {
    f'../{CANARY}': 'what an input must not reach\n',
    'evil.py': f"open({CANARY!r}, 'w').close()\n\n\ndef run(*a, **k):\n"
    '    pass\n',
    'gs': f'#!/bin/sh\n{COMMAND}\n',
}
EPS = (
    b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n'
    b'%%BeginProlog\n%%EndProlog\nshowpage\n%%EOF\n'
)
_TEXTS = [
    '',
    ' ',
    '0',
    '-1',
    '1e999',
    'nan',
    '\u0661\u0662',
    '\u202eabc',
    '\ud800',
    '\x1b[31mred',
    'a\0b',
    'e' + '\u0301' * 50,
    'x' * 10_000,
    '../../x',
    '/',
    '/etc/passwd',
    f'../{CANARY}',
    'evil.py',
    '.',
    '\n',
    '%s{}',
    '{{fileDirname}}',
    'None',
    # What a reader of configs, yaml or addresses might run.
    'evil',
    'evil.run',
    'mmengine.call_command',
    'os.system',
    f'pipe:{COMMAND}',
    '_base_',
    'custom_imports',
    'type',
    f'!!python/object/apply:os.system ["{COMMAND}"]',
    f'$({COMMAND})',
]
_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    0.5,
    -0.0,
    1e308,
    5e-324,
    2**31,
    2**63,
    -(2**63),
    10**400,
    float('nan'),
    float('inf'),
    [],
    {},
    [[]],
    [None],
    [0] * 9,
    {'type': 'evil.run'},
    {'type': 'mmengine.call_command', 'cmd': COMMAND},
    {'_delete_': True},
    {'counts': 'x', 'size': [10**6, 10**6]},
    _DEEP[1:-1],
    *_TEXTS,
]


class _Payload:
    """A pickle that runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (COMMAND,)


def pick(rng: np.random.Generator, values: Any) -> Any:
    """Draw one of a list."""
    return values[int(rng.integers(len(values)))]


# ------------------------------------------------------------------ damage


def damage(
    data: bytes, rng: np.random.Generator, other: bytes = b''
) -> tuple[bytes, bool]:
    """Damage bytes in one to three places.

    Args:
        data (bytes): Sound.
        rng (np.random.Generator): Source of randomness.
        other (bytes): Of another input, to take pieces from.

    Returns:
        tuple[bytes, bool]: Damaged; whether all of it is still there, in
        its place, but for the damage.
    """
    whole = True
    for _ in range(int(rng.integers(1, 4))):
        data, kept = _damage_once(data, rng, other or data)
        whole &= kept
    return data, whole


def _damage_once(
    data: bytes, rng: np.random.Generator, other: bytes
) -> tuple[bytes, bool]:
    """Damage bytes in one place."""
    if not data:
        return rng.bytes(8), False
    at = int(rng.integers(len(data)))
    # Headers are at the start, and more is decided there.
    if rng.random() < 0.3:
        at = min(at, int(rng.integers(64)))
    size = int(2 ** rng.uniform(0, 10))
    kind = pick(
        rng,
        (
            'bit',
            'byte',
            'run',
            'number',
            'cut',
            'delete',
            'insert',
            'splice',
            'repeat',
            'append',
        ),
    )
    if kind == 'bit':
        new = bytes([data[at] ^ 1 << int(rng.integers(8))])
    elif kind == 'byte':
        new = rng.bytes(1)
    elif kind == 'run':
        new = pick(rng, (bytes(size), b'\xff' * size, rng.bytes(size)))
    elif kind == 'number':
        new = pick(
            rng,
            (
                b'\xff' * 4,
                b'\x7f' + b'\xff' * 3,
                bytes(4),
                b'\x80' + bytes(7),
                b'\xff' * 8,
                b'99999999',
            ),
        )
    elif kind == 'cut':
        return data[:at], False
    elif kind == 'delete':
        return data[:at] + data[at + size :], False
    elif kind == 'repeat':
        return data[: at + size] + data[at:], False
    elif kind == 'append':
        return data + other[:size], True
    else:
        start = int(rng.integers(len(other)))
        new = other[start : start + size]
        if kind == 'insert':
            return data[:at] + new + data[at:], False
    return data[:at] + new + data[at + len(new) :], True


def damage_tree(tree: Any, rng: np.random.Generator) -> Any:
    """Damage one to three places of a tree of dicts and lists."""
    tree = copy.deepcopy(tree)
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(tree))
        if not places:
            return pick(rng, _VALUES)
        parent, key = pick(rng, places)
        kind = pick(
            rng,
            (
                'value',
                'value',
                'value',
                'delete',
                'text',
                'other',
                'wrap',
                'key',
            ),
        )
        if kind == 'value':
            parent[key] = copy.deepcopy(pick(rng, _VALUES))
        elif kind == 'delete':
            del parent[key]
        elif kind == 'text':
            parent[key] = str(parent[key])[:10_000]
        elif kind == 'other':
            source, name = pick(rng, places)
            if (
                name in source
                if isinstance(source, dict)
                else (name < len(source))
            ):
                parent[key] = copy.deepcopy(source[name])
        elif kind == 'wrap':
            parent[key] = [parent[key]]
        elif isinstance(parent, dict):
            parent[pick(rng, _TEXTS)] = parent.pop(key)
        else:
            parent.append(copy.deepcopy(parent[key]))
    return tree


def _places(tree: Any) -> Any:
    """Yield (parent, key) of all values."""
    items = (
        list(tree.items())
        if isinstance(tree, dict)
        else list(enumerate(tree))
        if isinstance(tree, list)
        else []
    )
    for key, value in items:
        yield tree, key
        yield from _places(value)


def to_json(tree: Any, rng: np.random.Generator) -> bytes:
    """Write json, some of it thousands of levels deep or damaged again."""
    text = json.dumps(tree)
    if _DEEP[1:-1] in text or r'\u2193' in text:
        levels = int(10 ** rng.uniform(1, 5))
        text = text.replace(
            json.dumps(_DEEP[1:-1]),
            pick(
                rng,
                (
                    '[' * levels + ']' * levels,
                    '{"a":' * levels + '1' + '}' * levels,
                    '[' * levels,
                ),
            ),
        )
    data = text.encode('utf-8', 'surrogatepass')
    if rng.random() < 0.15:
        data = damage(data, rng)[0]
    if rng.random() < 0.05:
        data = text.encode(
            pick(rng, ('utf-16', 'utf-8-sig', 'utf-32')), 'surrogatepass'
        )
    return data


# ------------------------------------------------------------ sound inputs


@lru_cache(maxsize=1)
def images() -> dict[str, bytes]:
    """Encoded images of all formats that Pillow can write, by suffix."""
    y, x = np.mgrid[:40, :52]
    picture = Image.fromarray(
        np.stack([5 * x % 256, 6 * y % 256, (x * y) % 256], -1).astype(
            np.uint8
        )
    )
    found = {'eps': EPS}
    for name, kind, mode, options in (
        ('jpg', 'JPEG', 'RGB', {}),
        ('png', 'PNG', 'RGB', {}),
        ('progressive.jpg', 'JPEG', 'RGB', dict(progressive=True)),
        ('cmyk.jpg', 'JPEG', 'CMYK', {}),
        ('p.png', 'PNG', 'P', {}),
        ('la.png', 'PNG', 'LA', {}),
        ('webp', 'WEBP', 'RGB', {}),
        ('alpha.webp', 'WEBP', 'RGBA', dict(lossless=True)),
        ('gif', 'GIF', 'P', {}),
        ('bmp', 'BMP', 'RGB', {}),
        ('tiff', 'TIFF', 'RGB', dict(compression='tiff_lzw')),
        ('deflate.tiff', 'TIFF', 'L', dict(compression='tiff_deflate')),
        ('avif', 'AVIF', 'RGB', {}),
        ('jp2', 'JPEG2000', 'RGB', {}),
        ('ppm', 'PPM', 'RGB', {}),
        ('tga', 'TGA', 'RGB', {}),
        ('dds', 'DDS', 'RGB', {}),
        ('ico', 'ICO', 'RGB', {}),
        ('pcx', 'PCX', 'RGB', {}),
        ('sgi', 'SGI', 'RGB', {}),
        ('im', 'IM', 'RGB', {}),
        ('pdf', 'PDF', 'RGB', {}),
    ):
        buffer = io.BytesIO()
        try:
            picture.convert(mode).save(buffer, kind, **options)
        except (KeyError, OSError):  # Pillow without that library
            continue
        found[name] = buffer.getvalue()
    return found


def shard(number: int, kind: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of ``number`` samples with captions and json."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w', format=kind) as tar:
        for i in range(number):
            long = 'folder/' * 20 if i == 1 else ''
            for extension, data in (
                ('jpg', images()['jpg']),
                ('txt', b'a photo of a key'),
                ('json', b'{"similarity": 0.3, "text": ["a", "b"]}'),
            ):
                info = tarfile.TarInfo(f'{long}{i:05d}.{extension}')
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def damage_header(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a field of a tar's header and make its sum right again."""
    at = 512 * pick(
        rng,
        [
            i
            for i in range(len(data) // 512)
            if data[512 * i + 257 : 512 * i + 262] == b'ustar'
        ],
    )
    header = bytearray(data[at : at + 512])
    start, end = pick(
        rng,
        (
            (0, 100),
            (124, 136),
            (124, 136),
            (156, 157),
            (156, 157),
            (257, 265),
            (345, 500),
            (100, 124),
        ),
    )
    new = pick(
        rng,
        (
            b'\xff' * 12,
            b'\x80' + b'\xff' * 11,
            b'77777777777\0',
            b'-1\0',
            b'x',
            b'L',
            b'g',
            b'S',
            b'1',
            b'5',
            b'Z',
            b'../../a.b.c.jpg\0',
            b'\0',
            rng.bytes(end - start),
        ),
    )[: end - start]
    header[start : start + len(new)] = new
    header[148:156] = b' ' * 8
    header[148:156] = b'%06o\0 ' % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


@lru_cache(maxsize=1)
def annotations() -> dict[str, Any]:
    """Annotations that are COCO's and LVIS' at once."""

    def instance(number: int) -> dict[str, Any]:
        x, y, w, h = 3 + number, 2 * number, 12 + number, 9
        mask: Any = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if number == 3:
            mask = dict(size=[40, 52], counts=[0, 40, 2040])
        return dict(
            id=number + 1,
            image_id=number % 3,
            bbox=[x, y, w, h],
            category_id=1 + number % 3,
            area=w * h,
            iscrowd=0,
            segmentation=mask,
        )

    return dict(
        info=dict(description='made'),
        licenses=[],
        images=[
            dict(
                id=i,
                width=52,
                height=40,
                file_name=f'{i}.jpg',
                neg_category_ids=[],
                not_exhaustive_category_ids=[],
            )
            for i in range(3)
        ],
        annotations=[instance(i) for i in range(6)],
        categories=[
            dict(
                id=i + 1,
                name=name,
                frequency=group,
                synonyms=[name],
                image_count=1,
                instance_count=2,
            )
            for i, (name, group) in enumerate(
                (('cat', 'f'), ('dog', 'c'), ('kite', 'r'))
            )
        ],
    )


def names() -> dict[str, bytes]:
    """Files of names, by suffix."""
    tree = {'names': {0: 'cat', 1: 'red umbrella', 2: 'dog'}}
    return {
        '.txt': b'cat\nred umbrella\n# no\ndog, big\n',
        '.names': b'cat\r\nred umbrella\r\ndog\r\n',
        '.json': json.dumps(tree).encode(),
        'list.json': b'["cat", "red umbrella", "dog"]',
        '.yaml': b'names:\n  0: cat\n  1: red umbrella\n  2: dog\n',
        'tag.yaml': f'names: {_TEXTS[-2]}\n'.encode(),
        'bomb.yaml': b'a: &a [x, x]\n'
        + b''.join(
            b'%c: &%c [*%c, *%c, *%c, *%c]\n' % ((i, i) + (i - 1,) * 4)
            for i in range(ord('b'), ord('p'))
        )
        + b'names: *o\n',
        '.pbtxt': b'item { id: 1 name: "cat" }\n'
        b'item { id: 2 display_name: "red umbrella" }\n',
        '.csv': b'cat,dog\n',
        '.pkl': pickle.dumps(['cat']),
    }


def table(kind: str, rows: int) -> bytes:
    """A table of ``rows`` pairs."""
    texts = ['a photo, red', '"Stop" he said', 'größer \u2602', 'a key']
    if kind == 'jsonl':
        return '\n'.join(
            json.dumps(
                dict(
                    path=f'{i % 3}.jpg',
                    caption=[texts[i % 4], 'a'] if i % 3 else texts[i % 4],
                    score=i / 9,
                )
            )
            for i in range(rows)
        ).encode()
    lines = ['path\tcaption\tscore'] + [
        f'{i % 3}.jpg\t{texts[i % 4]}\t{i / 9:.3f}' for i in range(rows)
    ]
    if kind == 'csv':
        lines = [
            ','.join(f'"{f}"' for f in line.replace('"', '""').split('\t'))
            for line in lines
        ]
    return ('\n'.join(lines) + '\n').encode()


def damage_safetensors(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage the header of a safetensors file, its length or its data."""
    if rng.random() < 0.4:
        return damage(data, rng)[0]
    size = struct.unpack('<Q', data[:8])[0]
    tree = json.loads(data[8 : 8 + size])
    part = tree if rng.random() < 0.4 else tree.get('__metadata__', tree)
    if part is not tree:
        # Values of the metadata are json within json.
        key = pick(rng, sorted(part))
        try:
            inner = json.loads(part[key])
        except ValueError:
            inner = part[key]
        part[key] = (
            to_json(damage_tree([inner], rng), rng)
            .decode('utf-8', 'replace')
            .strip('[]')
        )
    else:
        tree = damage_tree(tree, rng)
    header = to_json(tree, rng)
    return struct.pack('<Q', len(header)) + header + data[8 + size :]


def damage_pickle(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage a zip of PyTorch, or the pickle in it, or put a payload in."""
    kind = rng.random()
    if kind < 0.4:
        return damage(data, rng)[0]
    if kind < 0.5:
        return pickle.dumps(
            pick(
                rng,
                (
                    _Payload(),
                    dict(state_dict=_Payload()),
                    [1, {'a': np.zeros(3)}],
                ),
            )
        )
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(buffer, 'w') as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            if name.endswith('data.pkl'):
                content = (
                    pickle.dumps(dict(meta=_Payload()), 2)
                    if kind < 0.6
                    else damage(content, rng)[0]
                )
            elif rng.random() < 0.1:
                content = damage(content, rng)[0]
            new.writestr(name, content)
    return buffer.getvalue()
