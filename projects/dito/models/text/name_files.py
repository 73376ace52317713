# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Class names as users give them: lists, texts, and files of many kinds.

Everything that takes names reads them here:

================== =====================================================
what               how it is read
================== =====================================================
list               a name an entry; also arrays and generators
dict               as the map of a ``.json``
text               names separated by commas or line ends; a json list
``.txt .names``    one name per line, # begins a comment; one line of names
and others         with commas between; a list or map as in yaml; before
                   each name a bullet, a synset, or a number that orders
                   them, which may be behind
``.json``          list; name -> synonyms; id -> name; name -> id;
                   categories of COCO or LVIS; any of these under
                   ``names``, ``classes``, ``labels``, ``id2label`` ...
``.yaml .yml``     the same; every value is a text (``no`` is a name)
``.csv .tsv``      table with a column of names, see :mod:`.name_trees`
``.pbtxt``         label map of TensorFlow: ``display_name``, or ``name``
``.safetensors``   names of a vocabulary file
``common``         over a thousand everyday things, which come with the
                   package (``['common']`` is a name)
================== =====================================================

Text is UTF-8, or UTF-16 or UTF-32 with a byte-order mark. Quotation marks
around a whole name, '"red dog"', are no part of it anywhere; a comma within
double quotation marks is.
"""

import csv
import json
import os
import re
from collections.abc import Iterable, KeysView, Mapping, Sequence, Set
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import yaml

from dito.utils.files import encoding_of

from .name_checks import check_names
from .name_trees import (
    HOW,
    UNSEEN,
    NameList,
    NoNames,
    clean,
    from_pbtxt,
    from_table,
    from_tree,
    is_texts,
    parse,
)

Names = str | Path | Sequence[str]

#: What stands for the list of everyday things.
COMMON = 'common'
_COMMON_NAMES = Path(__file__).with_name('common_names.txt')
_TEXT_FILES = {'.txt', '.names', '.list', '.labels', '.label', '.lst'}
_TREES = {'.json', '.yaml', '.yml'}
_LABEL_MAPS = {'.pbtxt', '.textproto'}
_TABLES = {'.csv', '.tsv'}
_OTHER_FILES = set(
    '.xml .xlsx .py .pkl .npy .data .pth .pt .toml .md .jsonl .parquet'.split()
)
_FILES = {
    *_TEXT_FILES,
    *_TREES,
    *_OTHER_FILES,
    *_LABEL_MAPS,
    *_TABLES,
    '.safetensors',
}
_FREE_DOT = re.compile(r'\s\.(\s|$)|\.\s*$|\w{3}\.\s')
# '0: cat', '0 cat', 'cat 0', '- cat', and 'n02121808 cat' of ImageNet.
_NUMBERED = re.compile(r'(\d{1,18})\s*([:=,;.)\t ])\s*(\S.*)')
_NUMBER_BEHIND = re.compile(r'(\S.*?)\s*[:=,;\t ]\s*(\d{1,18})')
_BULLET = re.compile(r'(?:[-*\u2022]|n\d{8})\s+(\S.*)')
_COMMENT = re.compile(r'\s#(\s|$)')
# Signs of markup, code and protocols that no name has.
_MARKUP = re.compile(r'[<>{}]|://|^\w+:$|^\w+: *[\[{]')
_PROMPT = re.compile(r'\s\.(\s|$)')


def parse_names(names: Names) -> tuple[str, ...]:
    """Read class names from a list, a text, or a file.

    That is 'red umbrella, anchor', or a path, see :func:`read_names`; names
    have no blanks around them.

    Raises:
        FileNotFoundError: If what looks like a file is not there.
        ValueError: If there is no name, one is blank or a duplicate, or the
            names are written in a way that is not read here.
        TypeError: If a name is not a text.
    """
    return check_names(name_list(names).names)


def typed_names(text: str) -> tuple[str, ...]:
    """Read names out of a text alone: no file is looked at.

    'red umbrella, anchor', one name per line, or both; ValueError as in
    :func:`parse_names`.
    """
    lines = (line.strip().rstrip(',') for line in text.splitlines())
    text = ', '.join(line for line in lines if line)
    return check_names(_from_text(text) if text else ())


def name_list(names: Names) -> NameList:
    """Read names as :func:`parse_names` does, with synonyms and rare ones."""
    path = as_file(names)
    if path is not None:
        return read_names(path)
    if isinstance(names, str):
        return NameList(_from_text(names))
    if isinstance(names, Mapping):
        return from_tree(
            {str(k): v for k, v in names.items()}, 'The dict of names'
        )
    if isinstance(names, Set) and not isinstance(names, KeysView):
        raise TypeError(
            'A set of names has no order, and labels are places '
            'in it; give a list, as sorted(names).'
        )
    if hasattr(names, 'tolist'):  # array, tensor, column of a table
        names = names.tolist()
    if isinstance(names, str):
        return NameList(_from_text(names))
    if isinstance(names, bytes) or not isinstance(names, Iterable):
        raise TypeError(f'Names are a list of texts, got {names!r:.80}.')
    names = [clean(n) for n in names]
    files = [n for n in names if isinstance(n, str) and _file_suffix(n)]
    if files:
        raise ValueError(
            f'{files[0]!r} in a list of names looks like a file; give the '
            'file alone, or its names.'
        )
    return NameList(names)


def as_file(names: Any) -> Path | None:
    """The file that is meant, if names are given as one.

    ValueError if it is an address of another machine.
    """
    if isinstance(names, Path):
        return Path(os.path.expanduser(names))
    if not isinstance(names, str) or '\n' in names:
        return None
    text = names.strip()
    if text == COMMON:
        return _COMMON_NAMES
    if '://' in text:
        address = urlsplit(text)
        if address.scheme != 'file' or address.netloc not in ('', 'localhost'):
            raise ValueError(
                f'Names are not read from the address {text}; download the '
                'file and give its path.'
            )
        return Path(url2pathname(address.path))
    path = Path(os.path.expanduser(text))
    try:
        exists = bool(path.suffix or len(path.parts) > 1) and path.is_file()
    except (OSError, ValueError):  # too long for a path, or a NUL
        return None
    if exists or (_file_suffix(text) and ',' not in text):
        return path
    if text.startswith(('/', './', '../', '.\\')) or re.match(
        r'~[\w.-]*/|[A-Za-z]:[\\/]', text
    ):
        return path
    return None


def _file_suffix(text: str) -> bool:
    return Path(text.strip()).suffix.lower() in _FILES


def _from_text(text: str) -> list[str]:
    """Names of a text as it is typed on a command line."""
    text = text.translate(UNSEEN).strip()
    if text.startswith('['):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not is_texts(content):
            raise ValueError(
                f'The names {text[:80]!r} begin like a list but are not a '
                "json list of texts; write 'red umbrella, anchor'."
            )
        return [clean(n) for n in content]
    if '\n' in text or '\r' in text:
        return _from_lines(text)
    # A comma at the end is a typing error; one in the middle a lost name.
    parts = [clean(n) for n in _split(text.rstrip(','))]
    files = [n for n in parts if _file_suffix(n)]
    if files:
        raise ValueError(
            f'{files[0]!r} among the names looks like a file; give one file '
            'alone, or names.'
        )
    _refuse_other_marks(text, len(parts))
    _refuse_markup(text)
    return parts


def _split(text: str) -> list[str]:
    """Split at commas, but for those within double quotation marks."""
    if not re.search(r'(^|,)\s*"', text):
        return text.split(',')
    try:
        return next(csv.reader([text], strict=True, skipinitialspace=True))
    except csv.Error:
        raise ValueError(
            f'The quotation marks of the names {text[:80]!r} are not in '
            'pairs around whole names; close or remove them.'
        ) from None


def _refuse_markup(line: str) -> None:
    if _MARKUP.search(line):
        raise ValueError(
            f'{line[:80]!r} among the names is no name but of another format, '
            'such as HTML, a label map or yaml; give the file its suffix '
            '(.pbtxt, .yaml, .json), or write one name per line.'
        )


def _refuse_other_marks(text: str, count: int) -> None:
    """Refuse a list that is separated by something else than commas."""
    for mark in ';', '\uff0c', '\u3001', '|':
        if mark in text:
            raise ValueError(
                f'The names {text[:80]!r} are separated by {mark!r}; '
                f'separate them by commas: {_with_commas(text, mark)!r}.'
            )
    if count == 1 and _FREE_DOT.search(text):
        raise ValueError(
            f'The names {text[:80]!r} look like a prompt of Grounding DINO, '
            'with dots between the names; separate them by commas: '
            f'{_with_commas(text, ".")!r}.'
        )


def split_prompt(text: str) -> str | list[str]:
    """Take a prompt of Grounding DINO's, 'red umbrella . anchor .', apart.

    A text in which no free dot separates any names stays.
    """
    if ',' in text or as_file(text) is not None or not _FREE_DOT.search(text):
        return text
    return [p for p in map(clean, re.split(r'\.(?:\s|$)', text)) if p]


def _with_commas(text: str, mark: str) -> str:
    parts = (p.strip(' .') for p in text.split(mark))
    return ', '.join(p for p in parts if p)[:80]


def read_names(path: str | Path) -> NameList:
    """Read class names from a file; the module lists the kinds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of these.
    """
    path = as_file(str(path)) or Path(path)
    if not path.is_file():
        found = 'is a folder' if path.is_dir() else 'does not exist'
        raise FileNotFoundError(
            f'The file of class names {path} {found}; check the path.'
        )
    suffix = path.suffix.lower()
    if suffix == '.safetensors':
        return _from_vocabulary(path)
    if suffix in _OTHER_FILES:
        raise ValueError(
            f'Names are not read from a {suffix} file ({path}); {HOW}.'
        )
    text = _read_text(path)
    whole = text.translate(UNSEEN).strip()
    if suffix in _TEXT_FILES and whole[:1] + whole[-1:] in ('[]', '{}'):
        suffix = '.yaml'
    try:
        if suffix in _TREES:
            return from_tree(parse(text, suffix), path)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        if isinstance(error, NoNames):
            raise
        reason = ' '.join(str(error).split())
        raise ValueError(
            f'{path} is not {suffix[1:]} ({reason}); correct it, or {HOW}.'
        ) from None
    if suffix in _LABEL_MAPS:
        return NameList(from_pbtxt(text, path))
    if suffix in _TABLES:
        return NameList(
            [clean(n) for n in from_table(text.translate(UNSEEN), path)]
        )
    lines = _from_lines(text)
    if not lines:
        raise ValueError(f'The file of class names {path} has none; {HOW}.')
    return NameList(lines)


def _read_text(path: Path) -> str:
    """Text of a file by its byte-order mark, else as UTF-8."""
    content = path.read_bytes()
    encoding = encoding_of(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{path} is not a text file in {encoding.upper()} '
            f'({error.reason} at byte {error.start}); save it as UTF-8, a '
            'name per line.'
        ) from error
    if '\0' in text:
        raise ValueError(
            f'{path} is not a text file in UTF-8: byte {text.index(chr(0))} '
            'is 0, as in UTF-16 without a byte-order mark; save it as UTF-8, '
            'one name per line.'
        )
    return text


def _from_lines(text: str) -> list[str]:
    """Names of a text file: lines, one line of many, or numbered lines."""
    lines = [
        _COMMENT.split(line)[0].translate(UNSEEN).strip()
        for line in text.splitlines()
    ]
    lines = [line for line in lines if line and not line.startswith('#')]
    if len(lines) < 2:
        return _from_text(lines[0]) if lines else []
    numbered = _by_number(lines)
    if numbered is not None:
        return numbered
    bullets = [_BULLET.fullmatch(line) for line in lines]
    if all(bullets):
        lines = [clean(m[1]) for m in bullets if m]
    for line in lines:
        _refuse_markup(line)
        if _PROMPT.search(line):
            _refuse_other_marks(line, 1)
        if line.endswith(','):
            raise ValueError(
                f'The line {line[:80]!r} of the list of names ends with a '
                'comma; write one name per line, without commas.'
            )
        if line.startswith(('//', ';')):
            raise ValueError(
                f'The line {line[:80]!r} of the list of names looks like a '
                'comment; begin comments with #.'
            )
    if all(re.search(r'[,\t]\S', line) for line in lines):
        raise ValueError(
            f'The lines of the list of names look like a table '
            f'({lines[0][:80]!r}); keep the column of names alone, a name a '
            'line, or give the file the suffix .csv.'
        )
    return [clean(line) for line in lines]


def _by_number(lines: list[str]) -> list[str] | None:
    """Names of lines that have all a number, in its order."""
    found = [_NUMBERED.fullmatch(line) for line in lines]
    if all(found):
        pairs = [(int(m[1]), clean(m[3])) for m in found if m]
    else:
        behind = [_NUMBER_BEHIND.fullmatch(line) for line in lines]
        if not all(behind):
            return None
        pairs = [(int(m[2]), clean(m[1])) for m in behind if m]
    pairs.sort()
    ids = [number for number, _ in pairs]
    first = ids[0]
    consecutive = ids == list(range(first, first + len(ids)))
    if not all(found):
        # 'boeing 737' and 'airbus 320' are names.
        return [n for _, n in pairs] if consecutive and first < 2 else None
    marked = all(m and m[2] not in ' .' for m in found)
    if not consecutive and (not marked or len(set(ids)) < len(ids)):
        raise ValueError(
            f'Each line of the list of names begins with a number '
            f'({lines[0][:80]!r}), and they are not consecutive; write '
            "'7: cat' for ids, each once, or names in a .json list."
        )
    return [n for _, n in pairs]


def _from_vocabulary(path: Path) -> NameList:
    """Names, synonyms and novel classes of a vocabulary file."""
    from .vocabulary import Vocabulary  # it needs the checks beside this

    vocabulary = Vocabulary.load(path)
    names = list(vocabulary.names)
    more = {
        n: list(s)
        for n, s in zip(names, vocabulary.synonyms, strict=True)
        if s
    }
    return NameList(names, more)
