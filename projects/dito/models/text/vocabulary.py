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

from dito.utils.checkpoint import (
    check_suffix,
    load_from_safetensors,
    save_safetensors,
)

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
        groups (tuple[str]): Label of each class, K entries, where several
            classes share one; empty where each is a label of its own.
        examples (tuple[int]): How many pictures the embedding of each class
            was made of, K entries; empty where all are of their names alone.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    background: Tensor
    novel: Tensor
    fingerprint: str
    templates: tuple[str, ...] = ('{}',)
    synonyms: tuple[tuple[str, ...], ...] = ()
    background_name: str = 'background'
    groups: tuple[str, ...] = ()
    examples: tuple[int, ...] = ()

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
            groups=(len(self.groups) or num,),
            examples=(len(self.examples) or num,),
        )
        wanted = dict(
            embeddings=(num, width),
            background=(width,),
            novel=(num,),
            synonyms=(num,),
            groups=(num,),
            examples=(num,),
        )
        if found != wanted:
            raise ValueError(
                f'A vocabulary of {num} names needs parts of the sizes '
                f'{wanted}, got {found}.'
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> tuple[str, ...]:
        """What a detector's labels stand for: groups, else names."""
        return tuple(dict.fromkeys(self.groups)) or self.names

    @property
    def label_index(self) -> Tensor:
        """Label of each class, int64, shape (K,)."""
        place = {label: i for i, label in enumerate(self.labels)}
        return torch.tensor([place[g] for g in self.groups or self.names])

    @property
    def label_novel(self) -> Tensor:
        """Labels of which no name is a base class, bool, (labels,)."""
        if not self.groups:
            return self.novel
        base = torch.zeros(len(self.labels), dtype=torch.bool)
        base[self.label_index[~self.novel]] = True
        return ~base

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
            warn([readable_name(n) for n in names], prompts)
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
        return self._take([index[name_key(n)] for n in names])

    def _take(
        self, rows: Sequence[int], names: tuple[str, ...] | None = None
    ) -> 'Vocabulary':
        """Some classes, under other names if there are some."""

        def pick(parts: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(parts[i] for i in rows) if parts else ()

        return replace(
            self,
            names=names or pick(self.names),
            embeddings=self.embeddings[rows],
            novel=self.novel[rows],
            synonyms=pick(self.synonyms),
            groups=pick(self.groups),
            examples=pick(self.examples),
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
        rows = [self._index.get(name_key(name), []) for name in names]
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
        return self._take(list(first), names)

    def known(self, names: Sequence[str]) -> list[str]:
        """Names that :meth:`find` takes together, the first of each class."""
        rows: dict[int, str] = {}
        for name in names:
            found = self._index.get(name_key(name), [])
            if len(found) == 1:
                rows.setdefault(found[0], name)
        return list(rows.values())

    @cached_property
    def _index(self) -> dict[str, list[int]]:
        """Classes by name, else by name without suffix, else by synonym."""
        short = [(own.partition('(')[0] or own,) for own in self.names]
        index: dict[str, list[int]] = {}
        for forms in ([(own,) for own in self.names], short, self.synonyms):
            kind: dict[str, list[int]] = {}
            for i, names in enumerate(forms):
                for key in set(map(name_key, names)):
                    kind.setdefault(key, []).append(i)
            index = {**kind, **index}
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
        own = set(map(name_key, (*self.names, *self.labels)))
        rows = [
            i
            for i, (name, label) in enumerate(
                zip(other.names, other.groups or other.names, strict=True)
            )
            if name_key(name) not in own and name_key(label) not in own
        ]
        if not rows:
            return self
        more = other._take(rows)
        result = dict(
            names=(*self.names, *more.names),
            embeddings=torch.cat([self.embeddings, more.embeddings]),
            novel=torch.cat([self.novel, more.novel]),
            synonyms=(*self.synonyms, *more.synonyms),
        )
        if self.groups or more.groups:
            result['groups'] = (
                *(self.groups or self.names),
                *(more.groups or more.names),
            )
        if self.examples or more.examples:
            result['examples'] = (
                *(self.examples or (0,) * len(self)),
                *(more.examples or (0,) * len(more)),
            )
        return replace(self, **result)

    def mix(self, examples: 'Vocabulary') -> 'Vocabulary':
        """Add what pictures show; a class in both gets the mean of both.

        Args:
            examples (Vocabulary): Classes made of examples.

        Returns:
            Vocabulary: The classes of this one, then new ones.

        Raises:
            ValueError: If the other goes with another text tower.
        """
        joined = self.join(examples)
        place = {name_key(n): i for i, n in enumerate(self.names)}
        embeddings = joined.embeddings.clone()
        counts = list(joined.examples or (0,) * len(joined))
        for name, vector, count in zip(
            examples.names,
            examples.embeddings,
            examples.examples,
            strict=True,
        ):
            row = place.get(name_key(name))
            if row is not None:
                embeddings[row] = F.normalize(embeddings[row] + vector, dim=-1)
                counts[row] += count
        return replace(joined, embeddings=embeddings, examples=tuple(counts))

    def group(self, groups: Mapping[str, Sequence[str]]) -> 'Vocabulary':
        """Join classes under one label, as synonyms or kinds of one thing.

        The probabilities of a group's names add up before the detector
        suppresses boxes, so its names neither compete nor find one object
        twice.

        Args:
            groups (dict[str, Sequence[str]]): Names by label. A name that
                is in none keeps its label.

        Returns:
            Vocabulary: Whose ``labels`` are these.

        Raises:
            ValueError: If a name is not there or is in two groups, or a
                group is empty or called like a name outside it.
        """
        place = {name_key(n): i for i, n in enumerate(self.names)}
        labels = list(self.groups or self.names)
        taken: dict[int, str] = {}
        for label, members in groups.items():
            members = check_names(members)
            absent = [n for n in members if name_key(n) not in place]
            if absent:
                raise ValueError(
                    f'The group {label!r} has names that are not among the '
                    f'{len(self)} of the vocabulary: {shorten(absent)}.'
                )
            for name in members:
                row = place[name_key(name)]
                if row in taken:
                    raise ValueError(
                        f'The name {name!r} is in the groups '
                        f'{taken[row]!r} and {label!r}; keep one.'
                    )
                taken[row] = labels[row] = label
        check_names(tuple(dict.fromkeys(labels)))
        outside = [
            n for i, n in enumerate(labels) if i not in taken and n in groups
        ]
        if outside:
            raise ValueError(
                f'{shorten(outside)} is a group and a name outside it; put '
                'the name into the group, or call the group otherwise.'
            )
        return replace(self, groups=tuple(labels))

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
        check_suffix(path, 'A vocabulary')
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
                # Earlier versions know neither.
                **({'groups': self.groups} if self.groups else {}),
                **({'examples': self.examples} if self.examples else {}),
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
                _texts(meta.get('groups', ())),
                tuple(map(int, meta.get('examples', ()))),
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
    """Refuse what a file has instead of a list of texts."""
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(v, str) for v in value
    ):
        raise TypeError(f'{value!r} is where texts belong.')
    return tuple(value)
