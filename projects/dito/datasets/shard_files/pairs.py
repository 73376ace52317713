# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Lists of image-caption pairs: folders, CSV, TSV, JSON lines, parquet."""

import csv
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

from dito.datasets.image_text.tar_reader import IMAGE_EXTENSIONS

_READERS = ('.csv', '.tsv', '.jsonl', '.parquet')
# Of a folder; what shards do not hold becomes JPEG.
_IMAGES = (*IMAGE_EXTENSIONS, 'bmp', 'gif', 'jfif', 'jp2', 'ppm', 'tif',
           'tiff')


class Pair(NamedTuple):
    """One image with its caption.

    Attributes:
        path (str): Image file.
        caption (str or None): None where there is no text.
        extra (dict): Further columns, for the json beside the image.
    """

    path: str
    caption: Optional[str]
    extra: Dict[str, Any]


def read_pairs(source: str, *, image_column: str = 'path',
               caption_column: str = 'caption',
               root: Optional[str] = None) -> List[Pair]:
    """Read a list of pairs.

    Args:
        source (str): Folder of images, each with a text file of the same
            stem (searched through its sub-folders); or a table: .csv, .tsv,
            .jsonl or .parquet.
        image_column (str): Column of the image's path.
        caption_column (str): Column of the caption.
        root (str, optional): What the paths of a table are relative to.
            Defaults to None, the folder of the table.

    Returns:
        list[Pair]: In the order of the table, or of the sorted paths.

    Raises:
        FileNotFoundError: If the source is missing, or holds no pair.
        ValueError: If its kind is unknown or a column is missing.
    """
    path = Path(source)
    if path.is_dir():
        pairs = list(_walk(path))
    elif not path.is_file():
        raise FileNotFoundError(f'there is no folder or file {source!r}')
    else:
        base = Path(root) if root is not None else path.parent
        try:
            pairs = [
                _pair(row, base, image_column, caption_column, source)
                for row in _rows(path)
            ]
        except UnicodeDecodeError as error:
            raise ValueError(
                f'{source} is not in UTF-8 ({error.reason}); convert it '
                'first, such as by iconv -f LATIN1 -t UTF-8') from error
    if not pairs:
        raise FileNotFoundError(
            f'{source!r} holds no pair; expected images with .txt files '
            f'beside them, or a table ({", ".join(_READERS)})')
    return pairs


def _walk(folder: Path) -> Iterator[Pair]:
    """Yield the images below a folder, with their text files."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stem, dot, extension = name.rpartition('.')
            if not dot or extension.lower() not in _IMAGES:
                continue
            text = Path(root, stem + '.txt')
            # Not strict: a broken letter is no reason to lose a pair.
            caption = (text.read_text('utf-8', 'replace')
                       if text.is_file() else None)
            yield Pair(os.path.join(root, name), caption, {})


def _rows(path: Path) -> Iterator[Dict[str, Any]]:
    """Yield the rows of a table."""
    kind = path.suffix.lower()
    if kind in ('.csv', '.tsv'):
        csv.field_size_limit(2**24)
        with open(path, newline='', encoding='utf-8-sig') as file:
            yield from csv.DictReader(
                file, delimiter='\t' if kind == '.tsv' else ',')
    elif kind == '.jsonl':
        with open(path, encoding='utf-8') as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _json_row(line, path, number)
    elif kind == '.parquet':
        yield from _parquet_rows(path)
    else:
        raise ValueError(f'{str(path)!r} is no table of a known kind '
                         f'({", ".join(_READERS)})')


def _json_row(line: str, path: Path, number: int) -> Dict[str, Any]:
    """Parse a line of a .jsonl file."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f'line {number} of {path} is no json: '
                         f'{error}') from error
    if not isinstance(row, dict):
        raise ValueError(f'line {number} of {path} is no json object')
    return row


def _parquet_rows(path: Path) -> Iterator[Dict[str, Any]]:
    """Yield the rows of a parquet file, a batch in memory at a time."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            'parquet files are read through pyarrow, which is not installed; '
            'pip install pyarrow, or give a .csv') from error
    try:
        file = parquet.ParquetFile(path)
    except ValueError as error:  # ArrowInvalid is one
        raise ValueError(f'{path} is no parquet file: {error}') from error
    for batch in file.iter_batches():
        yield from batch.to_pylist()


def _pair(row: Dict[str, Any], base: Path, image_column: str,
          caption_column: str, source: str) -> Pair:
    """Make a pair of a row."""
    missing = {image_column, caption_column} - set(row)
    if missing or not row[image_column]:
        what = (f'has no column {sorted(missing)[0]!r}' if missing else
                f'has a row without {image_column!r}')
        raise ValueError(
            f'{source} {what}; its columns are {sorted(map(str, row))}')
    # DictReader keeps surplus fields under None.
    extra = {
        key: value for key, value in row.items()
        if key not in (image_column, caption_column, None)
    }
    caption = row[caption_column]
    return Pair(os.path.join(base, row[image_column]),
                None if caption is None else str(caption), extra)
