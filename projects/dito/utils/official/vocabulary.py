# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Text embeddings of the release as a vocabulary."""

import json
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    Iterable,
    List,
    NamedTuple,
    Sequence,
    Union,
)

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from dito.models.text import Vocabulary

# All embeddings of the release come from one text model.
FINGERPRINT = 'dito-release-text-model'
PADDING = 'empty'


class ClassRows(NamedTuple):
    """Classes of a file of embeddings.

    Attributes:
        names (dict[int, str]): Name by row, in the order of the rows.
        rare (list[str]): Names of frequency 'r' (LVIS).
    """

    names: Dict[int, str]
    rare: List[str]


def read_class_rows(path: Union[str, Path]) -> ClassRows:
    """Read which row of the release's embeddings belongs to which class.

    Rows are category ids; row 0 is the background.

    Args:
        path (str | Path): json: the release's mapping from id to name, or
            annotations of COCO or LVIS, whose categories have ids; or a text
            file, whose first line is row 1.

    Returns:
        ClassRows: The rows.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of these, or an id is no positive number or
            stands twice.
    """
    # Not at the top: the models need this package's converters.
    from dito.models.text.name_files import read_names
    path = Path(path)
    if path.suffix != '.json' or not path.is_file():
        return ClassRows(dict(enumerate(read_names(path).names, 1)), [])
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not json: {error}.') from None
    rare: List[str] = []
    if isinstance(content, dict) and 'categories' in content:
        content = content['categories']
    if isinstance(content, list) and content and all(
            isinstance(c, dict) and {'id', 'name'} <= set(c)
            for c in content):
        rare = [c['name'] for c in content if c.get('frequency') == 'r']
        pairs = [(c['id'], c['name']) for c in content]
    elif isinstance(content, dict) and content and all(
            isinstance(v, str) for v in content.values()):
        pairs = list(content.items())
    else:
        raise ValueError(
            f'{path} tells no rows: it must be a mapping from id to name, or '
            'annotations whose categories have ids and names.')
    return ClassRows(_by_row(pairs, path), rare)


def _by_row(pairs: Iterable[Sequence[Any]], path: Path) -> Dict[int, str]:
    """Check ids and sort by them."""
    rows: Dict[int, str] = {}
    for key, name in pairs:
        number = int(key) if str(key).isdigit() else 0
        if number < 1 or number in rows:
            raise ValueError(
                f'{path}: the id {key!r} of {name!r} must be a number from 1 '
                'on (0 is the background) and stand once.')
        rows[number] = name
    return dict(sorted(rows.items()))


def convert_vocabulary(embeddings: np.ndarray,
                       rows: ClassRows,
                       novel: Iterable[str] = (),
                       keep_rest: bool = False) -> 'Vocabulary':
    """Make a vocabulary of the release's precomputed embeddings.

    Args:
        embeddings (ndarray): Shape (R, D), row 0 the background.
        rows (ClassRows): Rows of the classes.
        novel (Iterable[str]): Names of novel classes besides the rare ones.
        keep_rest (bool): Whether rows without a class, unused ids and
            padding, become classes 'empty 1', 'empty 2' and so on. In the
            release they take part in every softmax, and can be detected.
            Defaults to False.

    Returns:
        Vocabulary: In the order of the rows, unit vectors.

    Raises:
        ValueError: If rows are missing, zero or not finite.
    """
    from dito.models.text import Vocabulary
    if embeddings.ndim == 3 and len(embeddings) == 1:
        embeddings = embeddings[0]
    if embeddings.ndim != 2 or embeddings.dtype.kind != 'f':
        raise ValueError(
            'The embeddings must be a float array (rows, size), got '
            f'{embeddings.dtype} {embeddings.shape}.')
    absent = [f'{i} ({n})' for i, n in rows.names.items()
              if i >= len(embeddings)]
    if absent:
        raise ValueError(
            f'The embeddings have {len(embeddings)} rows, too few for '
            f'{len(absent)} classes: {", ".join(absent[:5])}.')
    names = dict(rows.names)
    if keep_rest:
        rest = [i for i in range(1, len(embeddings)) if i not in names]
        names.update({i: f'{PADDING} {k}' for k, i in enumerate(rest, 1)})
        names = dict(sorted(names.items()))
    table = torch.from_numpy(embeddings[[*names, 0]].astype(np.float32))
    bad = [name for name, row in zip([*names.values(), 'background'], table,
                                     strict=True)
           if not torch.isfinite(row).all() or not row.any()]
    if bad:
        raise ValueError(f'{len(bad)} embeddings are zero or not finite: '
                         f'{", ".join(bad[:5])}.')
    table = F.normalize(table, dim=1)
    flags = {*rows.rare, *novel}
    unknown = sorted(flags - set(names.values()))
    if unknown:
        raise ValueError(f'{len(unknown)} novel names are no classes: '
                         f'{", ".join(unknown[:5])}.')
    return Vocabulary(
        tuple(names.values()), table[:-1], table[-1],
        torch.tensor([n in flags for n in names.values()]), FINGERPRINT)
