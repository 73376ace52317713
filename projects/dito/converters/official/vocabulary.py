# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Text embeddings of the release, and its text model for other names."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dito.models.text import Vocabulary
from dito.models.text.name_files import read_names
from dito.utils.files import PathLike, read_json

from .readers import need_package

# One prompt to its embedding (D, ).
Encode = Callable[[str], np.ndarray]

# The release's demo: a begin token, no end token, zeros behind.
MAX_PIECES = 64
# All embeddings of the release come from one text model.
FINGERPRINT = 'dito-release-text-model'
PADDING = 'empty'


class ClassRows(NamedTuple):
    """Classes of a file of embeddings.

    Attributes:
        names: Name by row, in the order of the rows.
        rare: Names of frequency 'r' (LVIS).
        synonyms: By name (LVIS).
    """

    names: dict[int, str]
    rare: list[str]
    synonyms: dict[str, list[str]] = {}


def read_embeddings(path: str | Path) -> np.ndarray:
    """Read a ``.npy`` of the release, (R, D); a first axis of one is dropped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no array.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f'The embeddings {path} do not exist; check the path.'
        )
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f'{path} is no array in .npy format: {error}.'
        ) from error
    return table[0] if table.ndim == 3 and len(table) == 1 else table


def read_class_rows(path: str | Path) -> ClassRows:
    """Read which row of the release's embeddings belongs to which class.

    Rows are category ids; row 0 is the background. The file is the release's
    mapping from id to name, or annotations of COCO or LVIS, as json; or a text
    file, whose first line is row 1.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of these, or an id is no positive number or
            appears twice.
    """
    path = Path(path)
    if path.suffix != '.json' or not path.is_file():
        return ClassRows(dict(enumerate(read_names(path).names, 1)), [])
    content = read_json(path)
    rare: list[str] = []
    synonyms: dict[str, list[str]] = {}
    if isinstance(content, dict) and 'categories' in content:
        content = content['categories']
    if (
        isinstance(content, list)
        and content
        and all(
            isinstance(c, dict) and {'id', 'name'} <= set(c) for c in content
        )
    ):
        rare = [c['name'] for c in content if c.get('frequency') == 'r']
        pairs = [(c['id'], c['name']) for c in content]
        synonyms = {
            c['name']: [
                s for s in c.get('synonyms') or () if isinstance(s, str)
            ]
            for c in content
        }
    elif (
        isinstance(content, dict)
        and content
        and all(isinstance(v, str) for v in content.values())
    ):
        pairs = list(content.items())
    else:
        raise ValueError(
            f'{path} has no rows: it must be a mapping from id to name, or '
            'annotations whose categories have ids and names.'
        )
    return ClassRows(_by_row(pairs, path), rare, synonyms)


def _by_row(pairs: Iterable[Sequence[Any]], path: Path) -> dict[int, str]:
    """Check ids and sort by them."""
    rows: dict[int, str] = {}
    for key, name in pairs:
        number = int(key) if str(key).isdigit() else 0
        if number < 1 or number in rows:
            raise ValueError(
                f'{path}: the id {key!r} of {name!r} must be a number from 1 '
                'on (0 is the background) and appear once.'
            )
        rows[number] = name
    return dict(sorted(rows.items()))


def convert_vocabulary(
    embeddings: np.ndarray,
    rows: ClassRows,
    novel: Iterable[str] = (),
    keep_rest: bool = False,
) -> Vocabulary:
    """Make a vocabulary of the release's precomputed embeddings, (R, D).

    It has unit vectors in the order of the rows. ``novel`` names novel classes
    besides the rare ones. With ``keep_rest`` rows without a class, unused ids
    and padding, become classes 'empty 1', 'empty 2' and so on: in the release
    they take part in every softmax, and can be detected. ValueError if rows
    are missing, zero or not finite.
    """
    if embeddings.ndim != 2 or embeddings.dtype.kind != 'f':
        raise ValueError(
            'The embeddings must be a float array (rows, size), got '
            f'{embeddings.dtype} {embeddings.shape}.'
        )
    absent = [
        f'{i} ({n})' for i, n in rows.names.items() if i >= len(embeddings)
    ]
    if absent:
        raise ValueError(
            f'The embeddings have {len(embeddings)} rows, too few for '
            f'{len(absent)} classes: {", ".join(absent[:5])}.'
        )
    names = dict(rows.names)
    if keep_rest:
        rest = [i for i in range(1, len(embeddings)) if i not in names]
        names.update({i: f'{PADDING} {k}' for k, i in enumerate(rest, 1)})
        names = dict(sorted(names.items()))
    table = torch.from_numpy(embeddings[[*names, 0]].astype(np.float32))
    bad = [
        name
        for name, row in zip(
            [*names.values(), 'background'], table, strict=True
        )
        if not torch.isfinite(row).all() or not row.any()
    ]
    if bad:
        raise ValueError(
            f'{len(bad)} embeddings are zero or not finite: '
            f'{", ".join(bad[:5])}.'
        )
    table = F.normalize(table, dim=1)
    flags = {*rows.rare, *novel}
    unknown = sorted(flags - set(names.values()))
    if unknown:
        raise ValueError(
            f'{len(unknown)} novel names are no classes: '
            f'{", ".join(unknown[:5])}.'
        )
    return Vocabulary(
        tuple(names.values()),
        table[:-1],
        table[-1],
        torch.tensor([n in flags for n in names.values()]),
        FINGERPRINT,
    )


def pad_pieces(pieces: Sequence[int], length: int = MAX_PIECES) -> list[int]:
    """Cut or fill a list of token ids with zeros."""
    kept = list(pieces)[:length]
    return kept + [0] * (length - len(kept))


def load_text_model(path: PathLike, tokenizer: PathLike) -> Encode:
    """Load the release's text model: prompt to embedding, float32, (D, ).

    TensorFlow runs the graph in the folder of the SavedModel, so it should
    come from the authors or another source you trust. ``tokenizer`` is the
    SentencePiece model ``dito_tokenizer.model``; texts are lower-cased.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If TensorFlow or SentencePiece is not installed.
    """
    path = Path(os.path.expanduser(path))
    tokenizer = Path(os.path.expanduser(tokenizer))
    if not (path / 'saved_model.pb').is_file():
        raise FileNotFoundError(
            f'{path} has no saved_model.pb; give the folder of the text model.'
        )
    if not tokenizer.is_file():
        raise FileNotFoundError(
            f'The tokenizer {tokenizer} does not exist; check the path.'
        )
    tf = need_package('tensorflow', 'tensorflow', f'the text model {path}')
    pieces = need_package(
        'sentencepiece', 'sentencepiece', f'the tokenizer {tokenizer}'
    )
    model: Any = tf.saved_model.load(str(path))
    cutter = pieces.SentencePieceProcessor(model_file=str(tokenizer))

    def encode(text: str) -> np.ndarray:
        ids = cutter.encode(text.lower(), add_bos=True, add_eos=False)
        # One at a time: the exported model need not take a batch.
        batch = tf.constant([pad_pieces(ids)], dtype=tf.int32)
        return np.asarray(model(dict(text=batch))[0], dtype=np.float32)

    return encode


def embed_names(
    names: Sequence[str], encode: Encode, templates: Sequence[str]
) -> np.ndarray:
    """Average the embeddings of all prompts of each name, float32, (names, D).

    As in the release the mean is not normalised; only cosines with it are
    used.
    """
    return np.stack(
        [
            np.mean([encode(t.replace('{}', name)) for t in templates], axis=0)
            for name in names
        ]
    ).astype(np.float32)
