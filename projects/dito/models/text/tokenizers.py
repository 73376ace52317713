# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The byte-pair tokenizer, the rows that a tower keeps, and others."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from open_clip import SimpleTokenizer
from open_clip import tokenizer as open_clip_tokenizer
from torch import Tensor

TokenIds = None | int | str | Path | Sequence[int] | Mapping[str, str]

# Row 0 is both the padding and the piece '!'. Attention is causal and the
# embedding is read at the end token, so padding after it has no effect.
PAD_ID = 0
# English has about 5 letters per token, entities such as &#8217; have 7. The
# tokenizer mends and splits a text in a time that grows with its square.
_LETTERS_PER_TOKEN = 20
# Texts whose tokens are remembered.
_CACHE_SIZE = 1 << 16


@lru_cache(maxsize=1)
def bpe_tokenizer() -> SimpleTokenizer:
    """Tokenizer of CLIP; its table ships inside open_clip."""
    return SimpleTokenizer()


def special_ids() -> list[int]:
    """Ids that every table keeps: padding, start and end of text."""
    tokenizer = bpe_tokenizer()
    return [PAD_ID, tokenizer.sot_token_id, tokenizer.eot_token_id]


def cut_text(text: str, context_length: int = 77) -> str:
    """Cut a text that is far too long, and its runs of blanks."""
    limit = _LETTERS_PER_TOKEN * context_length
    if len(text) <= limit:
        return text
    # Of blanks alone a text can have any number before its first token.
    return ' '.join(text[: 64 * limit].split())[:limit]


def collect_token_ids(texts: Iterable[str]) -> list[int]:
    """Ids that some texts need, sorted, with padding, start and end."""
    tokenizer = bpe_tokenizer()
    ids = set(special_ids())
    for text in texts:
        ids.update(tokenizer.encode(cut_text(text)))
    return sorted(ids)


def resolve_token_ids(spec: TokenIds) -> Tensor | None:
    """Turn the ``token_ids`` of a config into kept ids, sorted int64.

    None keeps all rows. A number keeps that many, to be read from a
    checkpoint; the ids are -1 until then. A list, or a path to a json list or
    to a text file with an id a line, names the ids. ``dict(texts_file=...)``
    collects them from a file with one text per line. The end-of-text id is the
    last.

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
                'of text need 3.'
            )
        return torch.full((spec,), -1, dtype=torch.int64)
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
            'list with DITOTextEncoder.collect_token_ids(texts).'
        )
    return torch.tensor(sorted({*values, *special_ids()}), dtype=torch.int64)


def _read_texts(spec: Mapping[str, str]) -> list[str]:
    """Read the lines of ``dict(texts_file=...)``."""
    if set(spec) != {'texts_file'}:
        raise ValueError(
            'token_ids as a dict must be dict(texts_file=PATH), got keys '
            f'{sorted(spec)}.'
        )
    return (
        _existing(Path(spec['texts_file']))
        .read_text(encoding='utf-8')
        .splitlines()
    )


def _read_ids(path: Path) -> list[int]:
    """Read a json list or one id a line."""
    text = _existing(path).read_text(encoding='utf-8')
    try:
        ids = json.loads(text) if path.suffix == '.json' else text.split()
        return [int(i) for i in ids]
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path} is not a list of token ids ({error}); it must hold a '
            'json list or one number a line.'
        ) from None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f'The token_ids file {path} does not exist; give the path '
            'relative to the working directory, or absolute.'
        )
    return path


class PieceTokenizer:
    """CLIP's tokenizer for a tower that keeps some rows of its table.

    It has no part of the tower, so that a loader's workers can have it;
    ``token_ids`` are the kept rows, int64, None for the whole table.
    """

    def __init__(
        self, token_ids: np.ndarray | None, context_length: int
    ) -> None:
        size = bpe_tokenizer().vocab_size
        self.context_length = context_length
        self.num_rows = size if token_ids is None else len(token_ids)
        self._rows = np.arange(size)
        if token_ids is not None:
            self._rows = np.full(size, -1)
            self._rows[token_ids] = np.arange(len(token_ids))
        self._known: dict[str, np.ndarray] = {}
        self.warned = False

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Turn N texts into rows of the table, int64, (N, context_length)."""
        tokens = np.zeros((len(texts), self.context_length), np.int64)
        for out, text in zip(tokens, texts, strict=True):
            text = cut_text(text, self.context_length)
            found = self._known.get(text)
            if found is None:
                if len(self._known) >= _CACHE_SIZE:
                    self._known.clear()
                found = self._known[text] = self._read(text)
            out[: len(found)] = found
        return torch.from_numpy(tokens)

    def _read(self, text: str) -> np.ndarray:
        """Rows of one text, with start and end."""
        tokenizer = bpe_tokenizer()
        ids = tokenizer.encode(text)[: self.context_length - 2]
        ids = [tokenizer.sot_token_id, *ids, tokenizer.eot_token_id]
        found = self._rows[ids]
        if (found < 0).any() and not self.warned:
            self.warned = True
            print_log(
                'The text tower has no embedding for '
                f'{self.unknown_pieces([text])[:20]} in {text[:200]!r} and '
                f'reads them as padding; it knows {self.num_rows} word '
                'pieces. This is reported once.',
                logger='current',
                level=logging.WARNING,
            )
        return np.maximum(found, 0)

    def unknown_pieces(self, texts: Iterable[str]) -> list[str]:
        """Pieces of some texts that have no row, sorted."""
        tokenizer = bpe_tokenizer()
        ids = {
            i
            for text in texts
            for i in tokenizer.encode(cut_text(text, self.context_length))
        }
        return sorted(
            tokenizer.decode([i]).strip() for i in ids if self._rows[i] < 0
        )


_OPTIONS = {'path', 'clean', 'strip_sep_token'}
#: How texts are cleaned, in the order of their numbers in a state dict.
CLEANINGS = ('whitespace', 'lower', 'canonicalize')


def cleaning_numbers(options: Mapping[str, Any]) -> list[int]:
    """What is done to texts and tokens, as weights can hold it.

    Of ``clean`` and ``strip_sep_token``, as in the ``tokenizer_kwargs`` of
    open_clip's configs, come the number in :data:`CLEANINGS`, and 1 where
    separators become padding, else 0. ValueError if the cleaning is not known.
    """
    clean = options.get('clean', CLEANINGS[0])
    if clean not in CLEANINGS:
        raise ValueError(
            f'clean of a tokenizer must be one of {list(CLEANINGS)}, got '
            f'{clean!r}.'
        )
    strip = bool(options.get('strip_sep_token', False))
    return [CLEANINGS.index(clean), int(strip)]


class ForeignTokenizer:
    """A tokenizer from a folder of files, as the hub of Hugging Face has.

    open_clip's wrapper does the work, so that tokens are those the tower was
    trained with. The folder is read when the first text comes, never before:
    a tower whose class embeddings come from a file needs no tokenizer.

    Args:
        config (dict): ``path`` of the folder (``tokenizer.json``,
            ``tokenizer_config.json``, ...). A converted tower brings
            ``clean`` (SigLIP: 'canonicalize', lower case without
            punctuation) and ``strip_sep_token`` (CLIPA) with its weights;
            they are here only for weights that lack them.
        context_length (int): Tokens a text.

    Raises:
        ValueError: If an option is not known or ``path`` is missing.
    """

    def __init__(self, config: Mapping[str, Any], context_length: int) -> None:
        if 'path' not in config or not set(config) <= _OPTIONS:
            raise ValueError(
                f'tokenizer takes {sorted(_OPTIONS)} and needs path, got '
                f'{sorted(config)}.'
            )
        self.path = Path(config['path'])
        self.options = dict(config)
        self.cleaning = cleaning_numbers(config)
        self.context_length = context_length
        self._tokenizer: Any | None = None

    def set_cleaning(self, numbers: Sequence[int]) -> None:
        """Clean texts as weights say, see :func:`cleaning_numbers`.

        ValueError if they say something unknown.
        """
        numbers = list(numbers)
        if numbers == self.cleaning:
            return
        if len(numbers) != 2 or not (
            0 <= numbers[0] < len(CLEANINGS) and numbers[1] in (0, 1)
        ):
            raise ValueError(
                f'The weights clean texts by text_cleaning={numbers}, which '
                'this version does not know; convert the tower again.'
            )
        self.cleaning, self._tokenizer = numbers, None

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Turn texts into tokens.

        Args:
            texts (Sequence[str]): N texts.

        Returns:
            Tensor: int64, shape (N, context_length).

        Raises:
            FileNotFoundError: If the folder is missing.
            ValueError: If the library that reads it is missing.
        """
        if self._tokenizer is None:
            self._tokenizer = self._load()
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.int64)
        return self._tokenizer(
            [cut_text(text, self.context_length) for text in texts]
        )

    def unknown_words(self, texts: Iterable[str]) -> list[str]:
        """Words, sorted, that become the token of the unknown."""
        if self._tokenizer is None:
            self._tokenizer = self._load()
        tokenizer = getattr(self._tokenizer, 'tokenizer', None)
        unknown = getattr(tokenizer, 'unk_token_id', None)
        # Some take the end of the text for it.
        if unknown is None or unknown in (
            getattr(tokenizer, f'{kind}_token_id', None)
            for kind in ('bos', 'cls', 'eos', 'pad', 'sep')
        ):
            return []
        words = sorted({word for text in texts for word in text.split()})
        return [w for w in words if bool((self([w]) == unknown).any())]

    def _load(self) -> Any:
        if not self.path.is_dir():
            raise FileNotFoundError(
                f'The tokenizer folder {self.path} of the text encoder does '
                'not exist; copy the tokenizer files of the public model '
                'there (docs/pretrained_towers.md), or give class embeddings '
                'made elsewhere.'
            )
        self._refuse_code()
        try:
            return open_clip_tokenizer.HFTokenizer(
                str(self.path),
                context_length=self.context_length,
                local_files_only=True,
                clean=CLEANINGS[int(self.cleaning[0])],
                strip_sep_token=bool(self.cleaning[1]),
            )
        except ImportError as error:
            raise ValueError(
                f'Reading the tokenizer {self.path} needs a library that is '
                f'not installed ({error}): pip install "transformers<5".'
            ) from error
        except Exception as error:  # the library's have no common type
            reason = ' '.join(str(error).split())[:200]
            raise ValueError(
                f'The tokenizer folder {self.path} cannot be read ({reason}); '
                'copy the files of the public model again.'
            ) from error

    def _refuse_code(self) -> None:
        """Refuse a folder that brings code; the library asks to run it."""
        for name in ('tokenizer_config.json', 'config.json'):
            try:
                content = json.loads((self.path / name).read_text('utf-8'))
            except FileNotFoundError:
                continue
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f'{self.path / name} is not json ({error}); copy the '
                    'files of the public model again.'
                ) from error
            if isinstance(content, dict) and content.get('auto_map'):
                raise ValueError(
                    f'{self.path / name} has auto_map='
                    f'{ascii(content["auto_map"])[:80]}, code for the '
                    'tokenizer, which is not run; take a tokenizer that '
                    'transformers knows by itself.'
                )
