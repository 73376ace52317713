# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What a detector can name: class names with their text embeddings."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dito.utils.checkpoint import load_from_safetensors, save_safetensors

from ..protocols import VocabularySource, require
from .name_checks import (
    check_names,
    embed_phrases,
    name_key,
    novel_flags,
    readable_name,
    resolve_synonyms,
    resolve_templates,
    shorten,
)

_FORMAT = 'dito-vocabulary-1'


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Class names with embeddings, base or novel flags and their origin.

    An embedding is the mean of the unit vectors of all prompts of a class,
    scaled to unit length again. (The release leaves the mean as it is; the
    detector takes cosines, so the scores are the same.)

    Attributes:
        names (tuple[str]): Class names as the dataset writes them; the
            order is the order of the detector's labels.
        embeddings (Tensor): Unit vectors, float32, shape (K, D).
        background (Tensor): Unit vector of the background, float32,
            shape (D,).
        novel (Tensor): True for classes without training boxes, bool,
            shape (K,).
        fingerprint (str): Of the text tower that made the embeddings.
        templates (tuple[str]): Prompts, with ``{}`` for the name.
        synonyms (tuple[tuple[str]]): More names of each class, K entries.
        background_name (str): Phrase of the background.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    background: Tensor
    novel: Tensor
    fingerprint: str
    templates: tuple[str, ...] = ('{}',)
    synonyms: tuple[tuple[str, ...], ...] = ()
    background_name: str = 'background'

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        check_names(self.names)
        if not self.synonyms:
            object.__setattr__(self, 'synonyms', ((),) * len(self.names))
        num, width = len(self.names), self.background.shape[-1]
        found = dict(
            embeddings=tuple(self.embeddings.shape),
            background=tuple(self.background.shape),
            novel=tuple(self.novel.shape),
            synonyms=(len(self.synonyms),),
        )
        wanted = dict(
            embeddings=(num, width),
            background=(width,),
            novel=(num,),
            synonyms=(num,),
        )
        if found != wanted:
            raise ValueError(
                f'A vocabulary of {num} names needs parts of the sizes '
                f'{wanted}, got {found}.'
            )

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return (
            f'Vocabulary({len(self)} classes, {int(self.novel.sum())} '
            f'novel, {len(self.templates)} templates, tower '
            f'{self.fingerprint[:8]}: {shorten(self.names)})'
        )

    @property
    def readable_names(self) -> tuple[str, ...]:
        """Names as words, for pictures and prompts."""
        return tuple(readable_name(n) for n in self.names)

    @classmethod
    def from_names(
        cls,
        names: Sequence[str],
        text_encoder: VocabularySource,
        templates: str | Sequence[str] | None = 'openai',
        novel: Iterable[str | bool] | None = None,
        synonyms: Mapping[str, Sequence[str]] | None = None,
        background: str = 'background',
        chunk: int = 64,
        cache_dir: str | Path | None = None,
    ) -> 'Vocabulary':
        """Embed names with a text tower.

        Args:
            names (Sequence[str]): Class names, in label order.
            text_encoder (VocabularySource): With ``encode`` and
                ``fingerprint``, such as :class:`DITOTextEncoder`.
            templates (str | Sequence[str], optional): 'openai' (80
                prompts), 'simple' (7), 'none', or own texts with ``{}``.
                Defaults to 'openai'.
            novel (Iterable[str] | Iterable[bool], optional): Names of the
                novel classes, or a flag a class. Defaults to None: none.
            synonyms (dict[str, Sequence[str]], optional): More phrases of
                a class; its embedding averages over all. Defaults to None.
            background (str): Phrase of the background. Defaults to
                'background' (paper Sec. 3.1).
            chunk (int): Phrases embedded at a time, which bounds the
                memory. Defaults to 64.
            cache_dir (str | Path, optional): Folder that keeps embeddings
                for the next time, by tower and templates. Defaults to None.

        Returns:
            Vocabulary: With embeddings on the CPU.

        Raises:
            TypeError: If ``text_encoder`` cannot embed names.
            ValueError: If names are missing, blank or duplicates, or ``novel``
                or ``synonyms`` speak of classes that are not there.
        """
        require(text_encoder, VocabularySource, 'text_encoder')
        names = check_names(names)
        flags = novel_flags(novel, names)
        more = resolve_synonyms(synonyms, names)
        prompts = resolve_templates(templates)
        check_names([*names, background])
        groups = [
            tuple(dict.fromkeys(map(readable_name, (name, *extra))))
            for name, extra in zip(
                (*names, background), (*more, ()), strict=True
            )
        ]
        warn = getattr(text_encoder, 'warn_unread', None)
        if warn is not None:
            warn([readable_name(n) for n in names])
        fingerprint = text_encoder.fingerprint()
        means = embed_phrases(
            groups, prompts, text_encoder, fingerprint, chunk, cache_dir
        )
        return cls(
            names,
            means[:-1],
            means[-1],
            flags,
            fingerprint,
            prompts,
            more,
            background,
        )

    def subset(self, names: Sequence[str]) -> 'Vocabulary':
        """Take some classes, in the order given; all of them reorders.

        Args:
            names (Sequence[str]): Names, in either spelling.

        Returns:
            Vocabulary: Without a new pass through the text tower.

        Raises:
            ValueError: If a name is not in the vocabulary, or given twice.
        """
        names = check_names(names)
        index = {name_key(n): i for i, n in enumerate(self.names)}
        absent = [n for n in names if name_key(n) not in index]
        if absent:
            raise ValueError(
                f'{len(absent)} names are not in this vocabulary of '
                f'{len(self)}: {shorten(absent)}; build one that has them.'
            )
        rows = [index[name_key(n)] for n in names]
        return replace(
            self,
            names=tuple(self.names[i] for i in rows),
            embeddings=self.embeddings[rows],
            novel=self.novel[rows],
            synonyms=tuple(self.synonyms[i] for i in rows),
        )

    def find(self, names: Sequence[str]) -> 'Vocabulary':
        """Look names up, as somebody types them who has no text tower.

        A name is that of a class, or the class without its suffix in
        parentheses, or a synonym, in this order of preference.

        Args:
            names (Sequence[str]): Names.

        Returns:
            Vocabulary: Classes in this order, under the names given.

        Raises:
            ValueError: If a name is not there, fits several classes, or two
                fit one.
        """
        names = check_names(names)
        rows = [self._row(name) for name in names]
        absent = [n for n, found in zip(names, rows, strict=True) if not found]
        if absent:
            close = [
                c
                for n in absent
                for c in difflib.get_close_matches(
                    readable_name(n), self.readable_names, 1
                )
            ]
            hint = f' (did you mean {shorten(close)}?)' if close else ''
            raise ValueError(
                f'{len(absent)} names are not among the {len(self)} whose '
                f'embeddings are at hand: {shorten(absent)}{hint}.'
            )
        for name, found in zip(names, rows, strict=True):
            if len(found) > 1:
                several = [self.names[i] for i in found]
                raise ValueError(
                    f'The name {name!r} fits {shorten(several)}; '
                    'write one of them.'
                )
        first: dict = {}
        for name, (row,) in zip(names, rows, strict=True):
            if first.setdefault(row, name) != name:
                raise ValueError(
                    f'{first[row]!r} and {name!r} are both the class '
                    f'{self.names[row]!r}; keep one.'
                )
        at = list(first)
        return replace(
            self,
            names=names,
            embeddings=self.embeddings[at],
            novel=self.novel[at],
            synonyms=tuple(self.synonyms[i] for i in at),
        )

    def _row(self, name: str) -> list[int]:
        """Classes that a name fits, of the best kind of fit alone."""
        key = name_key(name)
        return next((kind[key] for kind in self._index if key in kind), [])

    @cached_property
    def _index(self) -> tuple[dict[str, list[int]], ...]:
        """Classes by name, by name without suffix, and by synonym."""
        index: tuple[dict[str, list[int]], ...] = ({}, {}, {})
        for i, own in enumerate(self.names):
            short = own.partition('(')[0] or own
            for kind, forms in zip(
                index, ((own,), (short,), self.synonyms[i]), strict=True
            ):
                for key in set(map(name_key, forms)):
                    kind.setdefault(key, []).append(i)
        return index

    def join(self, other: 'Vocabulary') -> 'Vocabulary':
        """Append the classes of another vocabulary that this one lacks.

        Args:
            other (Vocabulary): Made by the same text tower.

        Returns:
            Vocabulary: Its first classes are those of this one, with their
            labels; templates and background are this one's.

        Raises:
            ValueError: If the other was made by another text tower.
        """
        if other.fingerprint != self.fingerprint:
            raise ValueError(
                'Vocabularies of two text towers cannot be joined: '
                f'{self.fingerprint[:8]} and {other.fingerprint[:8]}; build '
                'one of them anew.'
            )
        own = set(map(name_key, self.names))
        rows = [i for i, n in enumerate(other.names) if name_key(n) not in own]
        return replace(
            self,
            names=(*self.names, *(other.names[i] for i in rows)),
            embeddings=torch.cat([self.embeddings, other.embeddings[rows]]),
            novel=torch.cat([self.novel, other.novel[rows]]),
            synonyms=(*self.synonyms, *(other.synonyms[i] for i in rows)),
        )

    def with_novel(self, novel: Iterable[str | bool]) -> 'Vocabulary':
        """Set anew which classes are novel (names, or a flag a class)."""
        return replace(self, novel=novel_flags(novel, self.names))

    def check_encoder(self, fingerprint: str) -> None:
        """Refuse a detector that was trained with another text tower.

        Args:
            fingerprint (str): Of the tower the detector goes with.

        Raises:
            ValueError: If the embeddings come from another tower.
        """
        if fingerprint != self.fingerprint:
            raise ValueError(
                'This vocabulary was made by the text tower '
                f'{self.fingerprint[:8]}, the detector goes with '
                f'{fingerprint[:8]}; build it anew with the text tower of '
                'the detector (dito build-text-embeddings).'
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; it appears whole or not at all.

        Args:
            path (str | Path): Target, ending in ``.safetensors``.
        """
        if Path(path).suffix != '.safetensors':
            raise ValueError(
                f'A vocabulary is saved as .safetensors, got {path}.'
            )
        save_safetensors(
            dict(
                embeddings=self.embeddings,
                background=self.background,
                novel=self.novel,
            ),
            path,
            dict(
                format=_FORMAT,
                names=self.names,
                synonyms=self.synonyms,
                templates=self.templates,
                background_name=self.background_name,
                fingerprint=self.fingerprint,
            ),
        )

    @classmethod
    def load(cls, path: str | Path) -> 'Vocabulary':
        """Read a file written by :meth:`save`.

        Args:
            path (str | Path): A ``.safetensors`` file.

        Returns:
            Vocabulary: On the CPU.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged or something else.
        """
        content = load_from_safetensors(str(path))
        state, meta = content['state_dict'], content['meta']
        if meta.get('format') != _FORMAT:
            raise ValueError(
                f'{path} is not a vocabulary (format '
                f'{meta.get("format")!r}); make one with '
                'dito build-text-embeddings.'
            )
        if not all(torch.isfinite(t).all() for t in state.values()):
            raise ValueError(
                f'{path} holds embeddings that are not finite; build it anew.'
            )
        try:
            return cls(
                _texts(meta['names']),
                F.normalize(state['embeddings'].float(), dim=-1),
                F.normalize(state['background'].float(), dim=-1),
                state['novel'].bool(),
                *_texts([meta['fingerprint']]),
                _texts(meta['templates']),
                tuple(map(_texts, meta['synonyms'])),
                *_texts([meta['background_name']]),
            )
        except KeyError as error:
            raise ValueError(
                f'{path} is a vocabulary without {error}; build it anew.'
            ) from None
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f'{path} is not a vocabulary: {error} Build it anew.'
            ) from None


def _texts(value: Any) -> tuple[str, ...]:
    """Refuse what a file has in the place of a list of texts."""
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(v, str) for v in value
    ):
        raise TypeError(f'{value!r} stands where texts belong.')
    return tuple(value)
