# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tokenizers of public towers that do not use CLIP's."""

import json
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence

import torch
from open_clip import tokenizer as open_clip_tokenizer
from torch import Tensor

_OPTIONS = {'path', 'clean', 'strip_sep_token'}


class ForeignTokenizer:
    """A tokenizer from a folder of files, as the hub of Hugging Face has.

    open_clip's wrapper does the work, so that tokens are those the tower was
    trained with. The folder is read when the first text comes, never before:
    a tower whose class embeddings come from a file needs no tokenizer.

    Args:
        config (dict): ``path`` of the folder (``tokenizer.json``,
            ``tokenizer_config.json``, ...); ``clean`` ('whitespace' by
            default, 'canonicalize' for SigLIP) and ``strip_sep_token``
            (CLIPA), as in the ``tokenizer_kwargs`` of open_clip's configs.
        context_length (int): Tokens a text.

    Raises:
        ValueError: If an option is not known or ``path`` is missing.
    """

    def __init__(self, config: Mapping[str, Any],
                 context_length: int) -> None:
        if 'path' not in config or not set(config) <= _OPTIONS:
            raise ValueError(
                f'tokenizer takes {sorted(_OPTIONS)} and needs path, got '
                f'{sorted(config)}.')
        self._options: Dict[str, Any] = dict(config)
        self.path = Path(self._options.pop('path'))
        self.context_length = context_length
        self._tokenizer: Optional[Any] = None

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
        return self._tokenizer(list(texts))

    def unknown_words(self, texts: Iterable[str]) -> List[str]:
        """Words that become the tokenizer's token of the unknown.

        Args:
            texts (Iterable[str]): Any texts.

        Returns:
            list[str]: Sorted; empty where every text can be written, as with
            pieces of bytes.
        """
        if self._tokenizer is None:
            self._tokenizer = self._load()
        tokenizer = getattr(self._tokenizer, 'tokenizer', None)
        unknown = getattr(tokenizer, 'unk_token_id', None)
        # Some take the end of the text for it.
        if unknown is None or unknown in (
                getattr(tokenizer, f'{kind}_token_id', None)
                for kind in ('bos', 'cls', 'eos', 'pad', 'sep')):
            return []
        words = sorted({word for text in texts for word in text.split()})
        return [w for w in words if bool((self([w]) == unknown).any())]

    def _load(self) -> Any:
        if not self.path.is_dir():
            raise FileNotFoundError(
                f'The tokenizer folder {self.path} of the text encoder does '
                'not exist; copy the tokenizer files of the public model '
                'there (docs/pretrained_towers.md), or give class embeddings '
                'made elsewhere.')
        self._refuse_code()
        try:
            return open_clip_tokenizer.HFTokenizer(
                str(self.path), context_length=self.context_length,
                local_files_only=True, **self._options)
        except ImportError as error:
            raise ValueError(
                f'Reading the tokenizer {self.path} needs a library that is '
                f'not installed ({error}): pip install "transformers<5".'
            ) from error
        except Exception as error:  # the library's have no common type
            reason = ' '.join(str(error).split())[:200]
            raise ValueError(
                f'The tokenizer folder {self.path} cannot be read ({reason}); '
                'copy the files of the public model again.') from error

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
                    'files of the public model again.') from error
            if isinstance(content, dict) and content.get('auto_map'):
                raise ValueError(
                    f'{self.path / name} has auto_map='
                    f'{ascii(content["auto_map"])[:80]}, code for the '
                    'tokenizer, which is not run; take a tokenizer that '
                    'transformers knows by itself.')
