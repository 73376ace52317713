# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Prompt templates, and embeddings of phrases averaged over them."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

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
    """Look up a named set, or check own templates.

    Args:
        templates (str | Sequence[str], optional): 'openai' (the 80 prompts
            of CLIP), 'simple' (7 of them), 'none' (the bare name), one text
            with a ``{}``, or several. None means 'openai'.

    Returns:
        tuple[str]: Texts with one or more ``{}`` each.

    Raises:
        ValueError: If a set is unknown, empty, or a text has no ``{}``.
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

    A phrase that stands in several groups is embedded once.

    Args:
        groups (Sequence[tuple[str]]): Phrases of each class.
        templates (Sequence[str]): Prompts with ``{}``.
        text_encoder (VocabularySource): Tower.
        fingerprint (str): Of the tower.
        chunk (int): Phrases encoded at a time.
        cache_dir (str | Path, optional): Folder of the cache.

    Returns:
        Tensor: Unit vectors on the CPU, float32, shape (len(groups), D).
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
