# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Class names as users give them: lists, texts, and files of many kinds.

Everything that takes names reads them here:

================== =====================================================
what               how it is read
================== =====================================================
list               a name an entry
text               names separated by commas or line ends; a json list
``.txt .names``    a name a line, # begins a comment; one line of names
and others         with commas between; or a number before each name
``.json``          list; name -> synonyms; id -> name; name -> id;
                   categories of COCO or LVIS; any of these under
                   ``names``, ``classes``, ``labels``, ``id2label`` ...
``.yaml .yml``     the same; every value is a text (``no`` is a name)
``.pbtxt``         label map of TensorFlow: ``display_name``, or ``name``
``.safetensors``   names of a vocabulary file
================== =====================================================

Text is UTF-8, or UTF-16 or UTF-32 with a byte-order mark.
"""

import codecs
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union
from urllib.parse import urlsplit
from urllib.request import url2pathname

import yaml

from .name_checks import check_names

Names = Union[str, Path, Sequence[str]]

_TEXT_FILES = {'.txt', '.names', '.list', '.labels', '.label', '.lst'}
_YAML = {'.yaml', '.yml'}
_OTHER_FILES = {'.csv', '.tsv', '.xml', '.xlsx', '.py', '.pkl', '.npy',
                '.data', '.pth', '.pt', '.toml', '.md', '.jsonl', '.parquet'}
_FILES = {*_TEXT_FILES, *_YAML, *_OTHER_FILES, '.json', '.pbtxt',
          '.safetensors'}
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = ((codecs.BOM_UTF8, 'utf-8-sig'), (codecs.BOM_UTF32_LE, 'utf-32'),
          (codecs.BOM_UTF32_BE, 'utf-32'), (codecs.BOM_UTF16_LE, 'utf-16'),
          (codecs.BOM_UTF16_BE, 'utf-16'))
# Where files of trainers, hubs and demos keep their names.
_KEYS = ('categories', 'names', 'classes', 'thing_classes', 'labels',
         'id2label', 'label2id', 'class_names')
_FREE_DOT = re.compile(r'\s\.(\s|$)|\.\s*$|\w{3}\.\s')
_NUMBERED = re.compile(r'(\d+)\s*[:=,;.)\t ]\s*(\S.*)')
_PBTXT = re.compile(r'#[^\n]*|"((?:\\.|[^"\\\n])*)"|'
                    r"'((?:\\.|[^'\\\n])*)'|([\w.+-]+)|([{}<>])|[:;,\s]+")
_HOW = 'write a name a line into a .txt file'


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


def parse_names(names: Names) -> Tuple[str, ...]:
    """Read class names from a list, a text, or a file.

    Args:
        names (str | Path | Sequence[str]): A list; or 'red umbrella, anchor';
            or the path of a file of names, see :func:`read_names`.

    Returns:
        tuple[str]: Names without surrounding blanks.

    Raises:
        FileNotFoundError: If what looks like a file is not there.
        ValueError: If there is no name, one is blank or a duplicate, or the
            names are written in a way that is not read here.
        TypeError: If a name is not a text.
    """
    return check_names(name_list(names).names)


def name_list(names: Names) -> NameList:
    """Read names as :func:`parse_names` does, with synonyms and rare ones."""
    path = as_file(names)
    if path is not None:
        return read_names(path)
    if isinstance(names, str):
        return NameList(_from_text(names))
    names = [_clean(n) for n in names]
    files = [n for n in names if isinstance(n, str) and _file_suffix(n)]
    if files:
        raise ValueError(
            f'{files[0]!r} in a list of names looks like a file; give the '
            'file alone, or its names.')
    return NameList(names)


def as_file(names: Any) -> Optional[Path]:
    """The file that is meant, if names are given as one.

    Raises:
        FileNotFoundError: If a text looks like a file and there is none.
        ValueError: If it is an address of another machine.
    """
    if isinstance(names, Path):
        return names.expanduser()
    if not isinstance(names, str) or '\n' in names:
        return None
    text = names.strip()
    if '://' in text:
        address = urlsplit(text)
        if address.scheme != 'file':
            raise ValueError(
                f'Names are not read from the address {text}; download the '
                'file and give its path.')
        return Path(url2pathname(address.path))
    path = Path(text).expanduser()
    try:
        exists = bool(path.suffix or len(path.parts) > 1) and path.is_file()
    except (OSError, ValueError):  # too long for a path, or a NUL
        return None
    if exists or (_file_suffix(text) and ',' not in text):
        return path
    if text.startswith(('/', './', '../', '~/', '.\\')) or re.match(
            r'[A-Za-z]:[\\/]', text):
        return path
    return None


def _file_suffix(text: str) -> bool:
    return Path(text.strip()).suffix.lower() in _FILES


def _clean(name: Any) -> Any:
    """Take marks and blanks away that nobody sees."""
    if not isinstance(name, str):
        return name
    return name.replace('\ufeff', '').replace('\u200b', '').strip()


def _from_text(text: str) -> List[str]:
    """Names of a text as it is typed on a command line."""
    text = _clean(text)
    if text.startswith('['):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not _is_texts(content):
            raise ValueError(
                f'The names {text[:80]!r} begin like a list but are not a '
                "json list of texts; write 'red umbrella, anchor'.")
        return [_clean(n) for n in content]
    if '\n' in text or '\r' in text:
        return _from_lines(text)
    # A comma at the end is a slip; one in the middle is a lost name.
    parts = [_clean(n) for n in text.rstrip(',').split(',')]
    files = [n for n in parts if _file_suffix(n)]
    if files:
        raise ValueError(
            f'{files[0]!r} among the names looks like a file; give one file '
            'alone, or names.')
    _refuse_other_marks(text, len(parts))
    return parts


def _refuse_other_marks(text: str, count: int) -> None:
    """Refuse a list that is separated by something else than commas."""
    for mark in ';', '\uff0c', '\u3001', '|':
        if mark in text:
            raise ValueError(
                f'The names {text[:80]!r} are separated by {mark!r}; '
                f'separate them by commas: {_with_commas(text, mark)!r}.')
    if count == 1 and _FREE_DOT.search(text):
        raise ValueError(
            f'The names {text[:80]!r} look like a prompt of Grounding DINO, '
            'with dots between the names; separate them by commas: '
            f'{_with_commas(text, ".")!r}.')


def split_prompt(text: str) -> Union[str, List[str]]:
    """Take a prompt of MMDetection's, 'red umbrella . anchor .', apart.

    Args:
        text (str): As for Grounding DINO, or anything else.

    Returns:
        list[str] | str: The names; the text itself where no free dot
        separates any, for :func:`parse_names`.
    """
    if ',' in text or as_file(text) is not None or not _FREE_DOT.search(text):
        return text
    return [p for p in map(_clean, re.split(r'\.(?:\s|$)', text)) if p]


def _with_commas(text: str, mark: str) -> str:
    parts = (p.strip(' .') for p in text.split(mark))
    return ', '.join(p for p in parts if p)[:80]


def read_names(path: Union[str, Path]) -> NameList:
    """Read class names from a file; the module lists the kinds.

    Args:
        path (str | Path): The file; capitals in its suffix do not matter.

    Returns:
        NameList: The names, without surrounding blanks.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of these.
    """
    path = as_file(str(path)) or Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'The file of class names {path} does not exist; check the path.')
    suffix = path.suffix.lower()
    if suffix == '.safetensors':
        return _from_vocabulary(path)
    if suffix in _OTHER_FILES:
        raise ValueError(f'Names are not read from a {suffix} file ({path}); '
                         f'{_HOW}.')
    text = _read_text(path)
    try:
        if suffix == '.json':
            return _from_tree(
                json.loads(text, object_pairs_hook=_no_duplicates), path)
        if suffix in _YAML:
            return _from_tree(yaml.load(text, Loader=_TextLoader), path)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        if isinstance(error, _NoNames):
            raise
        reason = ' '.join(str(error).split())
        raise ValueError(f'{path} is not {suffix[1:]} ({reason}); correct '
                         f'it, or {_HOW}.') from None
    if suffix == '.pbtxt':
        return NameList(_from_pbtxt(text, path))
    lines = _from_lines(text)
    if not lines:
        raise ValueError(f'The file of class names {path} has none; {_HOW}.')
    return NameList(lines)


def _read_text(path: Path) -> str:
    """Text of a file by its byte-order mark, else as UTF-8."""
    content = path.read_bytes()
    encoding = next((e for mark, e in _MARKS if content.startswith(mark)),
                    'utf-8')
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{path} is not a text file in {encoding.upper()} '
            f'({error.reason} at byte {error.start}); save it as UTF-8, a '
            'name a line.') from error
    if '\0' in text:
        raise ValueError(
            f'{path} is not a text file in UTF-8: byte {text.index(chr(0))} '
            'is 0, as in UTF-16 without a byte-order mark; save it as UTF-8, '
            'a name a line.')
    return text


def _from_lines(text: str) -> List[str]:
    """Names of a text file: lines, one line of many, or numbered lines."""
    lines = [_clean(line) for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith('#')]
    if len(lines) == 1:
        return _from_text(lines[0])
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        ids = [int(m[1]) for m in numbered if m]
        if ids == list(range(ids[0], ids[0] + len(ids))):
            return [_clean(m[2]) for m in numbered if m]
    commas = [line for line in lines if line.endswith(',')]
    if commas:
        raise ValueError(
            f'The line {commas[0]!r} of the list of names ends with a comma; '
            'write a name a line, without commas or quotation marks.')
    return lines


class _NoNames(ValueError):
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


def _from_tree(content: Any, path: Path) -> NameList:
    """Tell the kinds of json and yaml apart."""
    if isinstance(content, dict):
        for key in _KEYS:
            if isinstance(content.get(key), (list, dict)):
                content = content[key]
                break
    if _is_texts(content):
        return NameList([_clean(n) for n in content])
    if isinstance(content, dict) and content:
        by_id = _by_id(content)
        if by_id is not None:
            return NameList(by_id)
        if all(map(_is_texts, content.values())) and not all(
                key.strip().isdigit() for key in content):
            names = [_clean(n) for n in content]
            return NameList(names,
                            dict(zip(names, content.values(), strict=True)))
    if isinstance(content, list) and all(
            isinstance(c, dict) and isinstance(c.get('name'), str)
            for c in content):
        return _from_categories(content)
    raise _NoNames(
        f'{path} has no class names; it must be a list of names, a map from '
        'ids to names or from a name to a list of synonyms, or annotations '
        'with categories.')


def _by_id(content: Dict[str, Any]) -> Optional[List[str]]:
    """Names of a map from ids to names, or from names to ids."""
    keys, values = list(content), list(content.values())
    if all(k.strip().isdigit() for k in keys) and _is_texts(values):
        ids = [int(k) for k in keys]
    elif all(_is_id(v) for v in values):
        ids, values = [int(v) for v in values], keys
    else:
        return None
    if len(set(ids)) < len(ids):
        raise ValueError('an id has more than one name')
    return [_clean(n) for _, n in sorted(zip(ids, values, strict=True))]


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().isdigit()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _from_categories(categories: List[Dict[str, Any]]) -> NameList:
    """Read categories of COCO or LVIS; those have synonyms and frequency."""
    result = NameList([_clean(c['name']) for c in categories])
    for name, category in zip(result.names, categories, strict=True):
        # LVIS repeats the name among its synonyms.
        others = [s for s in category.get('synonyms') or [] if s != name]
        if others:
            result.synonyms[name] = others
        if category.get('frequency') == 'r':
            result.rare.append(name)
    return result


def _from_pbtxt(text: str, path: Path) -> List[str]:
    """Names of a label map in protocol buffers' text form."""
    items: List[Dict[str, str]] = []
    words: List[str] = []
    place = 0
    while place < len(text):
        found = _PBTXT.match(text, place)
        if found is None:
            raise ValueError(f'{path} is not a label map: {text[place]!r} at '
                             f'character {place}; {_HOW}.')
        place = found.end()
        if found[4] in ('{', '<'):
            words = []
        elif found[4]:
            items.append(dict(zip(words[::2], words[1::2], strict=False)))
            words = []
        elif found.lastindex:
            word = next(g for g in found.groups() if g is not None)
            words.append(re.sub(r'\\(.)', r'\1', word))
    names = [i.get('display_name', i.get('name')) for i in items]
    ids = [i.get('id', '') for i in items]
    if not items or None in names or not all(i.isdigit() for i in ids):
        raise ValueError(f'{path} is not a label map of items with an id and '
                         f'a name; {_HOW}.')
    if len(set(map(int, ids))) < len(ids):
        raise ValueError(f'{path} gives an id to more than one name; correct '
                         'it.')
    pairs = sorted(zip(map(int, ids), names, strict=True))
    return [_clean(n) for _, n in pairs]


def _from_vocabulary(path: Path) -> NameList:
    """Names, synonyms and novel classes of a vocabulary file."""
    from .vocabulary import Vocabulary  # it needs the checks beside this
    vocabulary = Vocabulary.load(path)
    names = list(vocabulary.names)
    more = {n: list(s)
            for n, s in zip(names, vocabulary.synonyms, strict=True) if s}
    return NameList(names, more)
