# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Embeddings of names by the authors' text model."""

from argparse import Namespace
from collections.abc import Sequence

import numpy as np

from dito.converters.official.vocabulary import (
    ClassRows,
    Encode,
    convert_vocabulary,
    embed_names,
    load_text_model,
)
from dito.models.text import Vocabulary
from dito.models.text.name_checks import readable_name, resolve_templates
from dito.models.text.name_files import name_list

from .build_text_embeddings import novel_names
from .options import command


def build(
    names: Sequence[str],
    encode: Encode,
    background: np.ndarray,
    novel: Sequence[str],
    pad_to: int | None = None,
) -> Vocabulary:
    """Make a vocabulary of new names, by the release's text model.

    ``encode`` gives (D, ) of a prompt; ``background`` has the embeddings of
    background and padding, (2, D); ``pad_to`` counts rows with both.
    ValueError if the sizes do not go together.
    """
    if background.ndim != 2 or len(background) != 2:
        raise ValueError(
            'The file of the background must have 2 rows, background and '
            f'padding; it has shape {background.shape}.'
        )
    missing = 0 if pad_to is None else pad_to - 1 - len(names)
    if missing < 0:
        raise ValueError(
            f'--pad-to {pad_to} is less than the {len(names)} names and the '
            'background.'
        )
    rows = embed_names(
        [readable_name(n) for n in names], encode, resolve_templates('openai')
    )
    if rows.shape[1] != background.shape[1]:
        raise ValueError(
            f'The text model gives embeddings of size {rows.shape[1]}, the '
            f'background has {background.shape[1]}; they do not go together.'
        )
    table = np.concatenate(
        [background[:1], rows, background[1:].repeat(missing, 0)]
    )
    return convert_vocabulary(
        table, ClassRows(dict(enumerate(names, 1)), []), novel, keep_rest=True
    )


@command
def main(args: Namespace) -> int:
    """Write a vocabulary file."""
    background = np.load(args.background_embeddings, allow_pickle=False)
    names = name_list(args.names)
    novel = novel_names(args.novel, names, args.rare_is_novel)
    encode = load_text_model(args.text_model, args.tokenizer)
    vocabulary = build(
        names.names,
        encode,
        background,
        novel or names.names,
        args.pad_to,
    )
    vocabulary.save(args.out)
    print(f'{args.out}: {vocabulary}')
    return 0
