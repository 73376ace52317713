# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Class names in json, yaml and label maps.

:mod:`.name_files` lists the forms.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import yaml

# Where files of trainers, hubs and demos keep their names.
_KEYS = ('categories', 'names', 'classes', 'thing_classes', 'labels',
         'id2label', 'label2id', 'class_names')
_SYNSET = re.compile(r'n\d{8}')
_PBTXT = re.compile(r'#[^\n]*|"((?:\\.|[^"\\\n])*)"|'
                    r"'((?:\\.|[^'\\\n])*)'|([\w.+-]+)|([{}<>])|[:;,\s]+")
# Byte-order mark, zero-width space, word joiner, DOS's end of file.
UNSEEN = dict.fromkeys(map(ord, '\ufeff\u200b\u2060\x1a'))
_QUOTED = re.compile(r'"([^"]*)"|\'([^\']*)\'')
_ESCAPES = dict(n='\n', r='\r', t='\t')
HOW = 'write a name a line into a .txt file'


@dataclass
class NameList:
    """Class names of a file.

    Attributes:
        names (list[str]): In the order of the file, or of its ids where it
            maps ids to names.
        synonyms (dict[str, list[str]]): More phrases by name, where the
            file has them.
        rare (list[str]): Names of frequency 'r' (LVIS).
    """

    names: List[str]
    synonyms: Dict[str, List[str]] = field(default_factory=dict)
    rare: List[str] = field(default_factory=list)


def clean(name: Any) -> Any:
    """Take away what is no part of a name: unseen marks, blanks, quotes."""
    if not isinstance(name, str):
        return name
    name = name.translate(UNSEEN).strip()
    inside = _QUOTED.fullmatch(name)
    return name if inside is None else name[1:-1].strip()


class NoNames(ValueError):
    """Content that was read and is not a list of names."""


def _no_duplicates(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set = set()
        again = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise ValueError(f'the key {again!r} stands more than once')
    return result


class _TextLoader(yaml.SafeLoader):
    """YAML whose plain values are all texts: ``no`` and ``7`` are names."""

    yaml_implicit_resolvers: Dict[str, Any] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse keys that stand more than once."""
        pairs = [(self.construct_object(k, deep=True),
                  self.construct_object(v, deep=True)) for k, v in node.value]
        if not all(isinstance(k, str) for k, _ in pairs):
            raise ValueError('a key is not a text')
        return _no_duplicates(pairs)


_TextLoader.add_constructor(
    'tag:yaml.org,2002:map', _TextLoader.construct_mapping)


def parse(text: str, suffix: str) -> Any:
    """Parse a text; no key may stand twice.

    Args:
        text (str): Content of a file.
        suffix (str): '.json', or one of yaml.

    Returns:
        Any: Dicts, lists and texts; in json also numbers and flags.

    Raises:
        ValueError, yaml.YAMLError, RecursionError: If it is none.
    """
    if suffix == '.json':
        return json.loads(text, object_pairs_hook=_no_duplicates)
    return yaml.load(text, Loader=_TextLoader)


def from_tree(content: Any, path: Union[str, Path]) -> NameList:
    """Tell the kinds of json and yaml apart."""
    if isinstance(content, dict):
        count = content.get('nc')  # of YOLO's data.yaml
        for key in _KEYS:
            if isinstance(content.get(key), (list, dict)):
                content = content[key]
                if key == 'names' and _is_id(count) and int(count) != len(
                        content):
                    raise NoNames(
                        f'{path} has nc={count} and {len(content)} names; '
                        'correct one of them.')
                break
    if is_texts(content):
        return NameList([clean(n) for n in content])
    if isinstance(content, dict) and content:
        by_id = _by_id(content)
        if by_id is not None:
            return NameList(by_id)
        if all(map(is_texts, content.values())) and not all(
                key.strip().isdecimal() for key in content):
            names = [clean(n) for n in content]
            return NameList(names,
                            dict(zip(names, content.values(), strict=True)))
    if isinstance(content, list) and all(
            isinstance(c, dict) and isinstance(c.get('name'), str)
            for c in content):
        return _from_categories(content)
    raise NoNames(
        f'{path} has no class names; it must be a list of names, a map from '
        'ids to names or from a name to a list of synonyms, or annotations '
        'with categories.')


def _by_id(content: Dict[str, Any]) -> Optional[List[str]]:
    """Names of a map from ids to names, or from names to ids."""
    keys, values = list(content), list(content.values())
    if all(is_texts(v) and len(v) == 2 and _SYNSET.fullmatch(v[0])
           for v in values):  # imagenet_class_index.json
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


def _from_categories(categories: List[Dict[str, Any]]) -> NameList:
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


def from_pbtxt(text: str, path: Path) -> List[str]:
    """Names of a label map in protocol buffers' text form."""
    items = _items(text, path)
    names = [i.get('display_name', i.get('name')) for i in items]
    ids = [i.get('id', '') for i in items]
    if not items or None in names or not all(i.isdecimal() for i in ids):
        raise ValueError(f'{path} is not a label map of items with an id and '
                         f'a name; {HOW}.')
    if len(set(map(int, ids))) < len(ids):
        raise ValueError(f'{path} gives an id to more than one name; correct '
                         'it.')
    pairs = sorted(zip(map(int, ids), names, strict=True))
    return [clean(n) for _, n in pairs]


def _items(text: str, path: Path) -> List[Dict[str, str]]:
    """Fields of the items; what is nested in one, as keypoints, is none."""
    items: List[Dict[str, str]] = []
    words: List[str] = []
    outer: List[List[str]] = []
    place = 0
    while place < len(text):
        found = _PBTXT.match(text, place)
        if found is None:
            raise ValueError(f'{path} is not a label map: {text[place]!r} at '
                             f'character {place}; {HOW}.')
        place = found.end()
        if found[4] in ('{', '<'):
            outer.append(words[:-1])  # the last one names what begins
            words = []
        elif found[4]:
            if len(words) % 2:  # texts beside each other, or a lost value
                raise ValueError(f'{path} is not a label map: {words} are no '
                                 f'pairs of a field and a value; {HOW}.')
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
    return ValueError(f'{path} is not a label map: its braces are not in '
                      f'pairs; {HOW}.')
