# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Embed class names with the authors' text model (needs TensorFlow)."""

import argparse
from collections.abc import Sequence
from pathlib import Path

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
from dito.models.text.name_files import read_names

from .build_text_embeddings import given_names, novel_names
from .errors import one_sentence_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``official_text_embeddings.py``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('text_model', help='folder of the SavedModel')
    parser.add_argument(
        '--tokenizer', required=True, help='its SentencePiece model'
    )
    parser.add_argument(
        '--background',
        required=True,
        metavar='NPY',
        help='embeddings of background and padding, bg_empty_embed.npy',
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--names', nargs='+', help='class names')
    source.add_argument(
        '--names-file',
        help='text file with a name a line, json, or annotations',
    )
    parser.add_argument(
        '--out', required=True, help='file to write, .safetensors'
    )
    parser.add_argument(
        '--novel',
        nargs='+',
        default=[],
        help='names of the novel classes, or one file of them; the release '
        'takes all names of a user for novel, which is the default',
    )
    parser.add_argument(
        '--rare-is-novel',
        action='store_true',
        help='classes of frequency r in LVIS annotations are novel',
    )
    parser.add_argument(
        '--pad-to',
        type=int,
        metavar='ROWS',
        help='rows in all, background included, filled up with classes '
        '"empty"; the demo has 1204. They take part in the softmax',
    )
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser.parse_args(argv)


def build(
    names: Sequence[str],
    encode: Encode,
    background: np.ndarray,
    novel: Sequence[str],
    pad_to: int | None = None,
) -> Vocabulary:
    """Make a vocabulary of new names.

    Args:
        names (Sequence[str]): Class names.
        encode (Callable): Prompt to embedding (D, ).
        background (ndarray): Embeddings of background and padding, (2, D).
        novel (Sequence[str]): Names of the novel classes.
        pad_to (int, optional): Rows with the background's and padding.

    Returns:
        Vocabulary: Its fingerprint is that of the release's text model.

    Raises:
        ValueError: If the sizes do not go together.
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


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write a vocabulary file."""
    args = parse_args(argv)
    if Path(args.out).suffix != '.safetensors':
        raise ValueError(f'--out must end in .safetensors, got {args.out}.')
    if not Path(args.background).is_file():
        raise FileNotFoundError(
            f'The file {args.background} does not exist; check the path.'
        )
    names = (
        read_names(args.names_file)
        if args.names_file
        else given_names(args.names)
    )
    novel = novel_names(args.novel, names, args.rare_is_novel)
    encode = load_text_model(args.text_model, args.tokenizer)
    vocabulary = build(
        names.names,
        encode,
        np.load(args.background, allow_pickle=False),
        novel or names.names,
        args.pad_to,
    )
    vocabulary.save(args.out)
    print(f'{args.out}: {vocabulary}')
    return 0
