# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The byte-pair tokenizer and the choice of its rows that a tower keeps."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Iterable, List, Mapping, Optional, Sequence, Union

import torch
from open_clip import SimpleTokenizer
from torch import Tensor

TokenIds = Union[None, int, str, Path, Sequence[int], Mapping[str, str]]

# Row 0 is both the padding and the piece '!'. Attention is causal and the
# embedding is read at the end token, so padding after it has no effect.
PAD_ID = 0
# English has about 5 letters per token, entities such as &#8217; have 7. The
# tokenizer mends and splits a text in a time that grows with its square.
_LETTERS_PER_TOKEN = 20


@lru_cache(maxsize=1)
def bpe_tokenizer() -> SimpleTokenizer:
    """Tokenizer of CLIP; its table ships inside open_clip."""
    return SimpleTokenizer()


def special_ids() -> List[int]:
    """Ids that every table keeps: padding, start and end of text."""
    tokenizer = bpe_tokenizer()
    return [PAD_ID, tokenizer.sot_token_id, tokenizer.eot_token_id]


def cut_text(text: str, context_length: int = 77) -> str:
    """Cut a text that is far too long, before it is tokenized.

    Args:
        text (str): Any text.
        context_length (int): Tokens of which the rest has no effect.

    Returns:
        str: The text; of a very long one the start, without runs of blanks.
    """
    limit = _LETTERS_PER_TOKEN * context_length
    if len(text) <= limit:
        return text
    # Of blanks alone a text can have any number before its first token.
    return ' '.join(text[:64 * limit].split())[:limit]


def collect_token_ids(texts: Iterable[str]) -> List[int]:
    """Find the ids that some texts need.

    Args:
        texts (Iterable[str]): Captions, prompts or names.

    Returns:
        list[int]: Sorted ids, with padding, start and end of text.
    """
    tokenizer = bpe_tokenizer()
    ids = set(special_ids())
    for text in texts:
        ids.update(tokenizer.encode(cut_text(text)))
    return sorted(ids)


def resolve_token_ids(spec: TokenIds) -> Optional[Tensor]:
    """Turn the ``token_ids`` of a config into kept ids.

    Args:
        spec (None | int | list[int] | str | dict): None keeps all rows. A
            number keeps that many, to be read from a checkpoint; the ids
            are -1 until then. A list, or a path to a json list or to a text
            file with an id a line, names the ids. ``dict(texts_file=...)``
            collects them from a file with a text a line.

    Returns:
        Tensor | None: Sorted int64 ids, shape (rows,); the end-of-text id
        is the last. None for the whole table.

    Raises:
        ValueError: If the ids are not ids of the tokenizer.
        FileNotFoundError: If a file is missing.
    """
    if spec is None:
        return None
    if isinstance(spec, int):
        if spec < len(special_ids()):
            raise ValueError(
                f'token_ids={spec} is too few rows: padding, start and end '
                'of text need 3.')
        return torch.full((spec, ), -1, dtype=torch.int64)
    if isinstance(spec, Mapping):
        spec = collect_token_ids(_read_texts(spec))
    elif isinstance(spec, (str, Path)):
        spec = _read_ids(Path(spec))
    return _checked(spec)


def _checked(ids: Sequence[int]) -> Tensor:
    """Sort, add the special ids and refuse what is no id."""
    size = bpe_tokenizer().vocab_size
    values = [int(i) for i in ids]
    bad = [i for i in values if not 0 <= i < size]
    if bad:
        raise ValueError(
            f'token_ids must lie in [0, {size}), got {bad[:5]}; make the '
            'list with DITOTextEncoder.collect_token_ids(texts).')
    return torch.tensor(sorted({*values, *special_ids()}), dtype=torch.int64)


def _read_texts(spec: Mapping[str, str]) -> List[str]:
    """Read the lines of ``dict(texts_file=...)``."""
    if set(spec) != {'texts_file'}:
        raise ValueError(
            'token_ids as a dict must be dict(texts_file=PATH), got keys '
            f'{sorted(spec)}.')
    return _existing(Path(spec['texts_file'])).read_text(
        encoding='utf-8').splitlines()


def _read_ids(path: Path) -> List[int]:
    """Read a json list or one id a line."""
    text = _existing(path).read_text(encoding='utf-8')
    try:
        ids = json.loads(text) if path.suffix == '.json' else text.split()
        return [int(i) for i in ids]
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path} is not a list of token ids ({error}); it must hold a '
            'json list or one number a line.') from None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f'The token_ids file {path} does not exist; give the path '
            'relative to the working directory, or absolute.')
    return path
