# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Checks of class names, and the prompts that embed them."""

import hashlib
import json
import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
from torch import Tensor

from dito.utils.checkpoint import load_from_safetensors, save_safetensors

from ..protocols import VocabularySource

# open_clip keeps functions; a text with a placeholder can be saved in a file.
TEMPLATE_SETS = {
    'openai': tuple(f('{}') for f in OPENAI_IMAGENET_TEMPLATES),
    'simple': tuple(f('{}') for f in SIMPLE_IMAGENET_TEMPLATES),
    'none': ('{}',),
}


def readable_name(name: str) -> str:
    """Turn a dataset's class name into words.

    Underscores become spaces. LVIS tells homonyms apart by a suffix in
    parentheses; it stays, as context for the text tower.

    Examples:
        >>> readable_name('aerosol_can')
        'aerosol can'
        >>> readable_name('bat_(animal)')
        'bat (animal)'
    """
    return ' '.join(name.replace('_', ' ').split())


def resolve_templates(
    templates: str | Sequence[str] | None,
) -> tuple[str, ...]:
    """Look up a named set, or check own templates, with ``{}`` each.

    'openai' or None (the 80 prompts of CLIP), 'simple' (7 of them), 'none'
    (the bare name), or one's own. ValueError if a set is unknown, empty, or a
    text has no ``{}``.
    """
    if templates is None:
        templates = 'openai'
    if isinstance(templates, str):
        if templates in TEMPLATE_SETS:
            return TEMPLATE_SETS[templates]
        templates = (templates,)
    result = tuple(templates)
    bad = [t for t in result if not isinstance(t, str) or '{}' not in t]
    if bad or not result:
        raise ValueError(
            f'Prompt templates must be one of {sorted(TEMPLATE_SETS)} or '
            f'texts that contain {{}}, got {bad[:3] or list(result)}.'
        )
    return result


def fill_templates(templates: Sequence[str], phrase: str) -> tuple[str, ...]:
    """Put one phrase into every template."""
    return tuple(t.replace('{}', phrase) for t in templates)


def embed_phrases(
    groups: Sequence[tuple[str, ...]],
    templates: Sequence[str],
    text_encoder: VocabularySource,
    fingerprint: str,
    chunk: int = 64,
    cache_dir: str | Path | None = None,
) -> Tensor:
    """Embed groups of phrases, each group by its mean over all prompts.

    A phrase that is in several groups is embedded once, ``chunk`` at a
    time; ``cache_dir`` keeps them. Unit vectors on the CPU, float32, (groups,
    D).
    """
    if chunk < 1:
        raise ValueError(f'chunk must be at least 1, got {chunk}.')
    phrases = list(dict.fromkeys(p for group in groups for p in group))
    cache = _Cache(cache_dir, fingerprint, templates)
    todo = [p for p in phrases if p not in cache.rows]
    for start in range(0, len(todo), chunk):
        part = todo[start : start + chunk]
        prompts = [t for p in part for t in fill_templates(templates, p)]
        vectors = text_encoder.encode(prompts).float().cpu()
        means = vectors.view(len(part), len(templates), -1).mean(dim=1)
        cache.rows.update(zip(part, means, strict=True))
    if todo:
        cache.save()
    table = torch.stack([cache.rows[p] for p in phrases])
    row = {p: i for i, p in enumerate(phrases)}
    means = torch.stack(
        [table[[row[p] for p in group]].mean(dim=0) for group in groups]
    )
    return F.normalize(means, dim=-1)


class _Cache:
    """Phrase embeddings of one tower and one set of templates on disk."""

    def __init__(
        self,
        folder: str | Path | None,
        fingerprint: str,
        templates: Sequence[str],
    ) -> None:
        self.rows: dict[str, Tensor] = {}
        key = json.dumps([fingerprint, list(templates)])
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        self.path = Path(folder) / f'{name}.safetensors' if folder else None
        if self.path is not None and self.path.is_file():
            self.rows = self._load(self.path)

    @staticmethod
    def _load(path: Path) -> dict[str, Tensor]:
        try:
            content = load_from_safetensors(str(path))
            phrases: list[str] = content['meta']['phrases']
            rows = content['state_dict']['rows']
        except (KeyError, ValueError) as error:
            # Only time is lost: it is filled and written anew.
            print_log(
                f'The cache of text embeddings {path} cannot be read and is '
                f'made anew: {error}',
                logger='current',
                level=logging.WARNING,
            )
            return {}
        return dict(zip(phrases, rows, strict=True))

    def save(self) -> None:
        """Write all rows, if there is a folder."""
        if self.path is not None:
            save_safetensors(
                dict(rows=torch.stack(list(self.rows.values()))),
                self.path,
                dict(phrases=list(self.rows)),
            )


_MAX_LENGTH = 1000  # a text tower reads about 300


def name_key(name: str) -> str:
    """Form by which names are compared: readable, without case.

    The tokenizer reads lower case, so names that differ by case or by
    underscores only have one embedding. Nor does it matter whether an accent
    is a character of its own.
    """
    name = readable_name(name).casefold()
    return name if name.isascii() else unicodedata.normalize('NFC', name)


def trained_names(meta: Mapping[str, Any]) -> list[str]:
    """Base classes of a training by its ``dataset_meta``, if it has them."""
    novel = set(map(name_key, meta.get('novel_classes') or ()))
    classes = meta.get('base_classes') or meta.get('classes') or ()
    return [n for n in classes if name_key(n) not in novel]


def unseen_names(names: Sequence[str], meta: Mapping[str, Any]) -> list[bool]:
    """Which names are not among the base classes of a training."""
    base = set(map(name_key, trained_names(meta)))
    return [name_key(n) not in base for n in names]


def shorten(names: Sequence[str], limit: int = 5) -> str:
    """First names of a list, for an error text."""
    shown = ', '.join(repr(n) for n in names[:limit])
    return shown + (
        f' and {len(names) - limit} more' if len(names) > limit else ''
    )


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Refuse a list of names that no vocabulary can be made of.

    Raises:
        TypeError: If it is one text, or an entry is no text.
        ValueError: If it is empty, or names are blank, duplicate, endless or
            half a character.
    """
    if isinstance(names, str):
        raise TypeError(
            f'Class names must be a list of texts, got the text {names!r}; '
            f'write [{names!r}].'
        )
    names = tuple(names)
    if not names:
        raise ValueError(
            'The list of class names is empty; give at least one name.'
        )
    other = [n for n in names if not isinstance(n, str)]
    if other:
        raise TypeError(f'Class names must be texts, got {other[:5]}.')
    blank = [i for i, n in enumerate(names) if not readable_name(n)]
    if blank:
        raise ValueError(
            f'{len(blank)} of {len(names)} class names are blank, the first '
            f'in place {blank[0] + 1}; remove them or give them a name.'
        )
    for name in names:
        if len(name) > _MAX_LENGTH:
            raise ValueError(
                f'A class name has {len(name):,} characters ({name[:40]!r} '
                '...); is it a list of names? Write one name per line, or '
                'commas between names.'
            )
        if not name.isascii() and re.search('[\ud800-\udfff]', name):
            raise ValueError(
                f'The class name {name!r} has half a character; write it anew.'
            )
    _check_duplicates(names)
    return names


def _check_duplicates(names: Sequence[str]) -> None:
    groups: dict = {}
    for name in names:
        groups.setdefault(name_key(name), []).append(name)
    duplicates = [
        ' = '.join(map(repr, g[:5])) + (' = ...' if len(g) > 5 else '')
        for g in groups.values()
        if len(g) > 1
    ]
    if duplicates:
        shown = '; '.join(duplicates[:5])
        raise ValueError(
            f'Class names appear more than once, underscores and case aside '
            f'({len(duplicates)}): {shown}; keep one of each or tell them '
            "apart, as in 'bat_(animal)'."
        )


def novel_flags(
    novel: Iterable[str | bool] | None, names: Sequence[str]
) -> Tensor:
    """Turn names of novel classes, or flags, into flags, bool (K,).

    ValueError if a name is not among ``names``, or the number of flags is not
    K.
    """
    if isinstance(novel, Tensor):
        novel = novel.tolist()
    if isinstance(novel, str):
        raise TypeError(
            f'novel must be a list of names or flags, got {novel!r}.'
        )
    entries = list(novel) if novel is not None else []
    if not entries:
        return torch.zeros(len(names), dtype=torch.bool)
    if not any(isinstance(e, str) for e in entries):
        if len(entries) != len(names):
            raise ValueError(
                f'novel has {len(entries)} flags for {len(names)} names; '
                'give one a name, or the names of the novel classes.'
            )
        return torch.tensor([bool(e) for e in entries])
    known = {name_key(n) for n in names}
    wanted = {name_key(e): e for e in entries}
    absent = [e for key, e in wanted.items() if key not in known]
    if absent:
        raise ValueError(
            f'{len(absent)} novel names are not among the {len(names)} '
            f'class names: {shorten(absent)}.'
        )
    return torch.tensor([name_key(n) in wanted for n in names])


def resolve_synonyms(
    synonyms: Mapping[str, Sequence[str]] | None, names: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """Sort synonyms by class, K entries, most of them empty.

    ValueError if a key is not among ``names``, or a synonym is blank.
    """
    given = {name_key(k): (k, tuple(v)) for k, v in (synonyms or {}).items()}
    known = {name_key(n) for n in names}
    absent = [k for key, (k, _) in given.items() if key not in known]
    if absent:
        raise ValueError(
            f'{len(absent)} names with synonyms are not among the '
            f'{len(names)} class names: {shorten(absent)}.'
        )
    blank = [
        k
        for k, v in given.values()
        if not all(isinstance(s, str) and s.strip() for s in v)
    ]
    if blank:
        raise ValueError(f'Synonyms of {shorten(blank)} are blank.')
    return tuple(given.get(name_key(n), ('', ()))[1] for n in names)


def say_unread(count: int, unread: Mapping[str, Sequence[str]]) -> str:
    """Sentence about names with words that a text tower has not learnt."""
    shown = shorten(list(unread), 20)
    pieces = sorted({p for found in unread.values() for p in found})
    return (
        f'The text tower cannot read {len(unread)} of {count} names: '
        f'{shown}. It has no embedding for {shorten(pieces, 20)}, so '
        'what is found under these names means little; take other words '
        'for them, or a detector whose text tower has the whole table '
        'of words.'
    )
