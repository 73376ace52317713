# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Class names in tables: label maps of data sets as .csv and .tsv.

A first row with a known title (:data:`_NAMES`, :data:`_IDS`) is a header.
Names are the column whose title says so, or else the only one that is none
of ids: whole numbers, ``/m/011k07`` of OpenImages, ``n02121808`` of ImageNet.
Any other table is refused, since a wrong guess gives wrong classes.
"""

import csv
import io
import re
from pathlib import Path
from typing import List, Optional, Sequence

_NAMES = frozenset((
    'name', 'names', 'class', 'classes', 'classname', 'category', 'label',
    'categoryname', 'displayname', 'objectname'))
_IDS = frozenset((
    'id', 'ids', 'index', 'idx', 'no', 'number', 'classid', 'classindex',
    'categoryid', 'labelid', 'labelname', 'mid', 'wnid', 'synset'))
_CODE = re.compile(r'/[a-z]/\w+|n\d{8}')
_NUMBER = re.compile(r'\d{1,18}')
_DELIMITERS = ',;\t'


def from_table(text: str, path: Path) -> List[str]:
    """Read names of a table, in the order of their numbers if it has those.

    Numbers are ids where a title says so; without a header where they come
    first or count from 0 or 1.

    Args:
        text (str): Content of a .csv or .tsv.
        path (Path): Named in errors; '.tsv' has tabs.

    Returns:
        list[str]: Names, as they stand there.

    Raises:
        ValueError: If it is no table, or one without a clear column of
            names.
    """
    rows = _rows(text, path)
    titles = [re.sub(r'[\W_]', '', cell.lower()) for cell in rows[0]]
    header: Optional[List[str]] = None
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
            'or keep it alone.')
    order = _order(titles, columns, place, path)
    return [columns[place][row] for row in order]


def _rows(text: str, path: Path) -> List[List[str]]:
    """Cells of the rows that are not blank, as many in each."""
    first = text.lstrip().partition('\n')[0]
    mark = '\t' if path.suffix.lower() == '.tsv' else max(
        _DELIMITERS, key=first.count)
    # Strict: a mark that is never closed would swallow the lines below.
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=mark,
                        strict=True, skipinitialspace=True)
    rows: List[List[str]] = []
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
                    f'{mark!r} in them into quotation marks.')
    except csv.Error as error:
        raise ValueError(
            f'{path} cannot be read from line {reader.line_num} on ({error}); '
            'a quotation mark within a cell must be doubled and the cell '
            'quoted.') from error
    if not rows:
        raise ValueError(f'The file of class names {path} has none.')
    return rows


def _names_at(titles: Sequence[str],
              columns: Sequence[Sequence[str]]) -> Optional[int]:
    """Which column has the names; None where that is not clear."""
    if len(columns) == 1:
        return 0
    texts = [i for i, cells in enumerate(columns)
             if any(cells) and not all(map(_NUMBER.fullmatch, cells))]
    said = not _NAMES.isdisjoint(titles)
    found = [i for i in texts if (titles[i] in _NAMES if said else
                                  titles[i] not in _IDS)]
    if len(found) > 1:
        found = [i for i in found if not all(map(_CODE.fullmatch, columns[i]))]
    return found[0] if len(found) == 1 else None


def _order(titles: Sequence[str], columns: Sequence[Sequence[str]],
           names: int, path: Path) -> List[int]:
    """Rows in the order of their ids."""
    for place, cells in enumerate(columns):
        if place == names or not all(map(_NUMBER.fullmatch, cells)):
            continue
        ids = [int(cell) for cell in cells]
        counts = sorted(ids) in (list(range(len(ids))),
                                 list(range(1, len(ids) + 1)))
        if titles[place] not in _IDS and (
                any(titles) or (place and not counts)):
            continue
        if len(set(ids)) < len(ids):
            raise ValueError(f'{path} gives an id to more than one name; '
                             'correct it.')
        return sorted(range(len(ids)), key=ids.__getitem__)
    return list(range(len(columns[0])))
