# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Lists of image-caption pairs: folders, CSV, TSV, JSON lines, parquet."""

import ast
import csv
import io
import json
import math
import os
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dito.datasets.image_text.bad_samples import BadSample
from dito.datasets.image_text.captions import clean_text, decode_text
from dito.datasets.image_text.image_header import picture_suffixes
from dito.datasets.image_text.tar_reader import IMAGE_EXTENSIONS
from dito.utils.files import encoding_of

_READERS = ('.csv', '.tsv', '.jsonl', '.parquet')
_MAX_FIELD = 2**24
# What pandas writes for a missing value, and takes for one.
_NOTHING = 'NaN nan <NA> #N/A N/A n/a NA NULL null None'.split()
# Signs of a written list, beside its texts.
_LIST = ('[', ']', ',', 'null', 'nan', 'NaN', 'None')
# A field with quotation marks as csv writers put them. Tables without quoting
# (Conceptual Captions) have captions that begin with one, but do not duplicate
# those within.
_QUOTED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')
# Of a folder; what shards do not hold becomes JPEG.
# Some need a plugin, and are counted as pictures that cannot be decoded.
_IMAGES = frozenset(
    (
        *IMAGE_EXTENSIONS,
        'avif',
        'heic',
        'heif',
        *(suffix[1:] for suffix in picture_suffixes()),
    )
)


class Pair(NamedTuple):
    """One image file with its caption, None where there is no text.

    Attributes:
        extra: Further columns, for the json beside the image; several captions
            are the list ``captions`` there.
        fault: Reason and detail of why it cannot be used, known from the
            table.
    """

    path: str
    caption: str | None
    extra: dict[str, Any]
    fault: tuple[str, str] | None = None


def read_pairs(
    source: str,
    *,
    image_column: str = 'path',
    caption_column: str = 'caption',
    root: str | None = None,
) -> list[Pair]:
    """Read a list of pairs, in the order of the table or of sorted paths.

    The source is a folder of images, each with a text file of the same stem
    (searched through its sub-folders); or a table: ``.csv`` with quotation
    marks as spreadsheets write them, ``.tsv`` without, as Conceptual Captions
    has it, ``.jsonl`` or ``.parquet``. Text is UTF-8, or UTF-16 or 32 with a
    byte-order mark. A row with more or fewer fields than the header is a pair
    with a fault, counted later. Paths of a table are relative to ``root``, by
    default its folder.

    A caption may be a list: its first text is the caption, all of them go into
    the json. Numbers are taken as text; null and NaN are no caption.

    Raises:
        FileNotFoundError: If the source is missing, or holds no pair.
        ValueError: If its kind is unknown, it cannot be read as that, or a
            column is missing.
    """
    path = Path(source)
    if path.is_dir():
        pairs = list(_walk(path))
    elif not path.is_file():
        raise FileNotFoundError(f'there is no folder or file {source!r}')
    else:
        base = Path(root) if root is not None else path.parent
        try:
            pairs = _table_pairs(
                _rows(path), base, image_column, caption_column, source
            )
        except UnicodeError as error:
            raise ValueError(
                f'{source} is not in UTF-8 ({error}); convert it first, such '
                'as by iconv -f LATIN1 -t UTF-8'
            ) from error
    if not pairs:
        raise FileNotFoundError(
            f'{source!r} holds no pair; expected images with .txt files '
            f'beside them, or a table ({", ".join(_READERS)})'
        )
    return pairs


def _walk(folder: Path) -> Iterator[Pair]:
    """Yield the images below a folder, with their text files."""

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        # Cameras and Windows write IMG_1.JPG and IMG_1.TXT.
        present = set(names)
        texts = {name.lower(): name for name in names}
        for name in sorted(names):
            stem, dot, extension = name.rpartition('.')
            if not dot or extension.lower() not in _IMAGES:
                continue
            text = f'{stem}.txt'
            if text not in present:
                text = texts.get(text.lower(), text)
            path, text = os.path.join(root, name), Path(root, text)
            caption, fault = None, None
            try:
                if text.is_file():
                    caption = decode_text(text.read_bytes())
            except BadSample as error:
                fault = error.reason, f'{text}: {error}'
            except OSError as error:
                fault = 'file cannot be read', str(error)
            yield Pair(path, caption, {}, fault)


Row = dict[str, Any]


def _rows(path: Path) -> Iterator[tuple[str, Row, int]]:
    """Yield place, row and number of surplus, or -missing, fields."""
    kind = path.suffix.lower()
    if kind == '.parquet':
        yield from _parquet_rows(path)
        return
    if kind not in _READERS:
        raise ValueError(
            f'{str(path)!r} is no table of a known kind '
            f'({", ".join(_READERS)})'
        )
    with open(path, 'rb') as file:
        encoding = encoding_of(file.read(4))
    with open(
        path, newline='' if kind != '.jsonl' else None, encoding=encoding
    ) as file:
        if kind == '.jsonl':
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f'line {number}', _json_row(line, path, number), 0
        else:
            yield from _csv_rows(file, path, kind == '.tsv')


def _csv_rows(
    file: Iterable[str], path: Path, tabs: bool
) -> Iterator[tuple[str, Row, int]]:
    """Yield the rows of a .csv or .tsv."""
    csv.field_size_limit(_MAX_FIELD)
    if tabs:
        reader = csv.reader(file, delimiter='\t', quoting=csv.QUOTE_NONE)
    else:
        # Strict: a mark that is never closed would swallow the lines below.
        reader = csv.reader(file, strict=True)
    unquote = _unquoted if tabs else str
    line = 1
    try:
        header = [unquote(name) for name in next(reader, [])]
        if any('\0' in name for name in header):
            raise ValueError(
                f'{path} has zero bytes in its header, as in UTF-16 without '
                'a byte-order mark; save it as UTF-8'
            )
        twice = [n for n in header if n.strip() and header.count(n) > 1]
        if twice:
            raise ValueError(f'{path} has two columns {twice[0]!r}')
        line = reader.line_num + 1
        for fields in reader:
            if fields:
                row = dict(zip(header, map(unquote, fields), strict=False))
                yield f'line {line}', row, len(fields) - len(header)
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f'{path} cannot be read from line {line} on ({error}); a '
            'quotation mark within a field must be doubled and the field '
            'quoted, or give the table as .tsv without quoting'
        ) from error


def _unquoted(field: str) -> str:
    """Take off the quotation marks that a csv writer put."""
    if _QUOTED.fullmatch(field):
        return field[1:-1].replace('""', '"')
    return field


def _json_row(line: str, path: Path, number: int) -> Row:
    """Parse a line of a .jsonl file."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'line {number} of {path} is no json: {error}'
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f'line {number} of {path} is no json object')
    return row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row, int]]:
    """Yield the rows of a parquet file, a batch in memory at a time."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(
            'parquet files are read through pyarrow, which is not installed; '
            'pip install pyarrow, or give a .csv'
        ) from error
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f'row {number}', row, 0
    except (ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f'{path} is no parquet file that can be read: {error}'
        ) from error


def _table_pairs(
    rows: Iterable[tuple[str, Row, int]],
    base: Path,
    image_column: str,
    caption_column: str,
    source: str,
) -> list[Pair]:
    """Make pairs of the rows of a table, which must have both columns."""
    columns = {image_column, caption_column}
    lacking, seen, pairs = set(columns), set(), []
    make = partial(
        _pair,
        base=base,
        image_column=image_column,
        caption_column=caption_column,
    )
    for place, row, surplus in rows:
        lacking -= set(row)
        seen |= set(row)
        fault = None
        if surplus:
            width = len(row) + max(0, -surplus)
            fault = (
                'other number of fields',
                f'{place} of {source} has '
                f'{width + surplus}, the header {width}',
            )
        pairs.append(make(row, fault=fault, place=f'{place} of {source}'))
    if lacking and pairs:
        raise ValueError(
            f'{source} has no column {sorted(lacking)[0]!r}; '
            f'its columns are {sorted(seen)}'
        )
    return pairs


def _pair(
    row: Row,
    base: Path,
    image_column: str,
    caption_column: str,
    place: str,
    fault: tuple[str, str] | None,
) -> Pair:
    """Make a pair of a row."""
    path = row.get(image_column)
    if fault is None and not (isinstance(path, str) and path.strip()):
        fault = 'no image path', f'{place}, {image_column} is {path!r:.80}'
    extra = {
        key: value
        for key, value in row.items()
        if key not in (image_column, caption_column)
    }
    texts, strange = _texts(row.get(caption_column))
    if strange and fault is None:
        fault = (
            'caption is no text',
            (f'{place}, {caption_column} is {row[caption_column]!r:.80}'),
        )
    if len(texts) > 1:
        extra['captions'] = texts
    return Pair(
        os.path.join(base, path) if isinstance(path, str) else '',
        texts[0] if texts else None,
        extra,
        fault,
    )


def _texts(value: Any) -> tuple[list[str], bool]:
    """Return the captions in a field, and whether it is of a wrong kind."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if isinstance(value, str):
        values = _written_list(value)
    texts: list[str] = []
    for item in values:
        if item is None or item in (math.inf, -math.inf) or item != item:
            continue  # null, NaN
        if isinstance(item, bool) or not isinstance(item, (str, int, float)):
            return [], True
        text = clean_text(str(item))
        if text.strip() in _NOTHING:
            continue
        if text.strip() or not isinstance(value, (list, tuple)):
            texts.append(text)
    return texts, False


def _written_list(text: str) -> list[str]:
    """Read ``['a key', 'a blue key']``, as pandas writes lists to csv."""
    if (
        not re.match(r"\s*\[\s*(['\"\]]|null|nan|None)", text)
        or len(text) > 2**16
    ):
        return [text]
    try:
        tokens = [
            token
            for token in tokenize.generate_tokens(
                io.StringIO(text.strip()).readline
            )
            if token.string.strip()
        ]
        if (
            tokens[-1].string != ']'
            or any(
                token.type != tokenize.STRING and token.string not in _LIST
                for token in tokens
            )
            or [t.string for t in tokens].count('[') != 1
        ):
            return [text]
        return [
            ast.literal_eval(token.string)
            for token in tokens
            if token.type == tokenize.STRING
        ]
    except (
        ValueError,
        SyntaxError,
        tokenize.TokenError,
        RecursionError,
        MemoryError,
    ):
        return [text]
