# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Class names in tables, json, yaml and label maps.

:mod:`.name_files` lists the forms.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_NAMES = frozenset(
    'name names class classes classname category label categoryname '
    'displayname objectname'.split()
)
_IDS = frozenset(
    'id ids index idx no number classid classindex categoryid labelid '
    'labelname mid wnid synset'.split()
)
_CODE = re.compile(r'/[a-z]/\w+|n\d{8}')
_NUMBER = re.compile(r'\d{1,18}')
_DELIMITERS = ',;\t'


def from_table(text: str, path: Path) -> list[str]:
    """Read names of a table, in the order of their numbers if it has those.

    Numbers are ids where a title says so; without a header where they come
    first or count from 0 or 1. ValueError if it is no table, or one without a
    clear column of names.
    """
    rows = _rows(text, path)
    titles = [re.sub(r'[\W_]', '', cell.lower()) for cell in rows[0]]
    header: list[str] | None = None
    if not _NAMES.union(_IDS).isdisjoint(titles):
        header = rows.pop(0)
    else:
        titles = [''] * len(titles)
    columns = list(zip(*rows, strict=True))
    if not columns:
        raise ValueError(f'{path} has a header and no class names.')
    place = _names_at(titles, columns)
    if place is None:
        shown = ', '.join(map(repr, header or rows[0]))[:200]
        raise ValueError(
            f'It is not clear which column of {path} has the class names '
            f'({shown}); give that column the title "name" in a first row, '
            'or keep it alone.'
        )
    order = _order(titles, columns, place, path)
    return [columns[place][row] for row in order]


def _rows(text: str, path: Path) -> list[list[str]]:
    """Cells of the rows that are not blank, as many in each."""
    first = text.lstrip().partition('\n')[0]
    mark = (
        '\t'
        if path.suffix.lower() == '.tsv'
        else max(_DELIMITERS, key=first.count)
    )
    # Strict: a mark that is never closed would swallow the lines below.
    reader = csv.reader(
        io.StringIO(text, newline=''),
        delimiter=mark,
        strict=True,
        skipinitialspace=True,
    )
    rows: list[list[str]] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            rows.append(cells)
            if len(cells) != len(rows[0]):
                raise ValueError(
                    f'Line {reader.line_num} of {path} has {len(cells)} cells '
                    f'and the first row {len(rows[0])}; put names that have '
                    f'{mark!r} in them into quotation marks.'
                )
    except csv.Error as error:
        raise ValueError(
            f'{path} cannot be read from line {reader.line_num} on ({error}); '
            'a quotation mark within a cell must be doubled and the cell '
            'quoted.'
        ) from error
    if not rows:
        raise ValueError(f'The file of class names {path} has none.')
    return rows


def _names_at(
    titles: Sequence[str], columns: Sequence[Sequence[str]]
) -> int | None:
    """Which column has the names; None where that is not clear."""
    if len(columns) == 1:
        return 0
    texts = [
        i
        for i, cells in enumerate(columns)
        if any(cells) and not all(map(_NUMBER.fullmatch, cells))
    ]
    said = not _NAMES.isdisjoint(titles)
    found = [
        i
        for i in texts
        if (titles[i] in _NAMES if said else titles[i] not in _IDS)
    ]
    if len(found) > 1:
        found = [i for i in found if not all(map(_CODE.fullmatch, columns[i]))]
    return found[0] if len(found) == 1 else None


def _order(
    titles: Sequence[str],
    columns: Sequence[Sequence[str]],
    names: int,
    path: Path,
) -> list[int]:
    """Rows in the order of their ids."""
    for place, cells in enumerate(columns):
        if place == names or not all(map(_NUMBER.fullmatch, cells)):
            continue
        ids = [int(cell) for cell in cells]
        counts = sorted(ids) in (
            list(range(len(ids))),
            list(range(1, len(ids) + 1)),
        )
        if titles[place] not in _IDS and (
            any(titles) or (place and not counts)
        ):
            continue
        if len(set(ids)) < len(ids):
            raise ValueError(
                f'{path} gives an id to more than one name; correct it.'
            )
        return sorted(range(len(ids)), key=ids.__getitem__)
    return list(range(len(columns[0])))


# Where files of trainers, hubs and demos keep their names.
_KEYS = (
    'categories names classes thing_classes labels id2label label2id '
    'class_names'
).split()
_SYNSET = re.compile(r'n\d{8}')
_PBTXT = re.compile(
    r'#[^\n]*|"((?:\\.|[^"\\\n])*)"|'
    r"'((?:\\.|[^'\\\n])*)'|([\w.+-]+)|([{}<>])|[:;,\s]+"
)
# Byte-order mark, zero-width space, word joiner, DOS's end of file.
UNSEEN = dict.fromkeys(map(ord, '\ufeff\u200b\u2060\x1a'))
_QUOTED = re.compile(r'"([^"]*)"|\'([^\']*)\'')
_ESCAPES = dict(n='\n', r='\r', t='\t')
HOW = 'write one name per line into a .txt file'


@dataclass
class NameList:
    """Class names of a file, in its order, or that of its ids.

    ``synonyms`` are more phrases by name, where the file has them, ``rare``
    the names of frequency 'r' (LVIS).
    """

    names: list[str]
    synonyms: dict[str, list[str]] = field(default_factory=dict)
    rare: list[str] = field(default_factory=list)


def clean(name: Any) -> Any:
    """Take away what is no part of a name: unseen marks, blanks, quotes."""
    if not isinstance(name, str):
        return name
    name = name.translate(UNSEEN).strip()
    inside = _QUOTED.fullmatch(name)
    return name if inside is None else name[1:-1].strip()


class NoNames(ValueError):
    """Content that was read and is not a list of names."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set = set()
        again = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise ValueError(f'the key {again!r} appears more than once')
    return result


class _TextLoader(yaml.SafeLoader):
    """YAML whose plain values are all texts: ``no`` and ``7`` are names."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse keys that appear more than once."""
        pairs = [
            (
                self.construct_object(k, deep=True),
                self.construct_object(v, deep=True),
            )
            for k, v in node.value
        ]
        if not all(isinstance(k, str) for k, _ in pairs):
            raise ValueError('a key is not a text')
        return _no_duplicates(pairs)


_TextLoader.add_constructor(
    'tag:yaml.org,2002:map', _TextLoader.construct_mapping
)


def parse(text: str, suffix: str) -> Any:
    """Parse json or yaml; no key may appear twice.

    ValueError, yaml.YAMLError, RecursionError if it is none.
    """
    if suffix == '.json':
        return json.loads(text, object_pairs_hook=_no_duplicates)
    return yaml.load(text, Loader=_TextLoader)


def from_tree(content: Any, path: str | Path) -> NameList:
    """Tell the kinds of json and yaml apart."""
    if isinstance(content, dict):
        count = content.get('nc')  # of YOLO's data.yaml
        for key in _KEYS:
            if isinstance(content.get(key), (list, dict)):
                content = content[key]
                if (
                    key == 'names'
                    and _is_id(count)
                    and int(count) != len(content)
                ):
                    raise NoNames(
                        f'{path} has nc={count} and {len(content)} names; '
                        'correct one of them.'
                    )
                break
    if is_texts(content):
        return NameList([clean(n) for n in content])
    if isinstance(content, dict) and content:
        by_id = _by_id(content)
        if by_id is not None:
            return NameList(by_id)
        if all(map(is_texts, content.values())) and not all(
            key.strip().isdecimal() for key in content
        ):
            names = [clean(n) for n in content]
            return NameList(
                names, dict(zip(names, content.values(), strict=True))
            )
    if isinstance(content, list) and all(
        isinstance(c, dict) and isinstance(c.get('name'), str) for c in content
    ):
        return _from_categories(content)
    raise NoNames(
        f'{path} has no class names; it must be a list of names, a map from '
        'ids to names or from a name to a list of synonyms, or annotations '
        'with categories.'
    )


def _by_id(content: dict[str, Any]) -> list[str] | None:
    """Names of a map from ids to names, or from names to ids."""
    keys, values = list(content), list(content.values())
    if all(
        is_texts(v) and len(v) == 2 and _SYNSET.fullmatch(v[0]) for v in values
    ):  # imagenet_class_index.json
        values = [name for _, name in values]
    if all(k.strip().isdecimal() for k in keys) and is_texts(values):
        ids = [int(k) for k in keys]
    elif all(_is_id(v) for v in values):
        ids, values = [int(v) for v in values], keys
    else:
        return None
    if len(set(ids)) < len(ids):
        raise ValueError('an id has more than one name')
    return [clean(n) for _, n in sorted(zip(ids, values, strict=True))]


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().isdecimal()
    return isinstance(value, int) and not isinstance(value, bool)


def is_texts(value: Any) -> bool:
    """Whether it is a list of texts."""
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _from_categories(categories: list[dict[str, Any]]) -> NameList:
    """Read categories of COCO or LVIS; those have synonyms and frequency."""
    result = NameList([clean(c['name']) for c in categories])
    for name, category in zip(result.names, categories, strict=True):
        # LVIS repeats the name among its synonyms.
        others = category.get('synonyms')
        others = others if is_texts(others) else []
        others = [s for s in others if s != name]
        if others:
            result.synonyms[name] = others
        if category.get('frequency') == 'r':
            result.rare.append(name)
    return result


def _unescaped(word: str) -> str:
    """Undo the escapes of protocol buffers: octal bytes are of UTF-8."""

    def one(found: 're.Match[str]') -> str:
        octal, other = found.groups()
        if octal is None:
            return _ESCAPES.get(other, other)
        data = bytes(int(d, 8) & 255 for d in octal.split('\\')[1:])
        return data.decode('utf-8', 'replace')

    return re.sub(r'((?:\\[0-7]{3})+)|\\(.)', one, word)


def from_pbtxt(text: str, path: Path) -> list[str]:
    """Names of a label map in protocol buffers' text form."""
    items = _items(text, path)
    names = [i.get('display_name', i.get('name')) for i in items]
    ids = [i.get('id', '') for i in items]
    if not items or None in names or not all(i.isdecimal() for i in ids):
        raise ValueError(
            f'{path} is not a label map of items with an id and a name; {HOW}.'
        )
    if len(set(map(int, ids))) < len(ids):
        raise ValueError(
            f'{path} gives an id to more than one name; correct it.'
        )
    pairs = sorted(zip(map(int, ids), names, strict=True))
    return [clean(n) for _, n in pairs]


def _items(text: str, path: Path) -> list[dict[str, str]]:
    """Fields of the items; what is nested in one, as keypoints, is none."""
    items: list[dict[str, str]] = []
    words: list[str] = []
    outer: list[list[str]] = []
    place = 0
    while place < len(text):
        found = _PBTXT.match(text, place)
        if found is None:
            raise ValueError(
                f'{path} is not a label map: {text[place]!r} at '
                f'character {place}; {HOW}.'
            )
        place = found.end()
        if found[4] in ('{', '<'):
            outer.append(words[:-1])  # the last one names what begins
            words = []
        elif found[4]:
            if len(words) % 2:  # texts beside each other, or a lost value
                raise ValueError(
                    f'{path} is not a label map: {words} are no '
                    f'pairs of a field and a value; {HOW}.'
                )
            if len(outer) == 1:
                items.append(dict(zip(words[::2], words[1::2], strict=True)))
            if not outer:
                raise _unpaired(path)
            words = outer.pop()
        elif found.lastindex:
            word = next(g for g in found.groups() if g is not None)
            words.append(_unescaped(word))
    if outer:
        raise _unpaired(path)
    return items


def _unpaired(path: Path) -> ValueError:
    return ValueError(
        f'{path} is not a label map: its braces are not in pairs; {HOW}.'
    )
