# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Embeddings of new names by the release's own text model."""

import os
from pathlib import Path
from typing import Any, Callable, List, Sequence, Union

import numpy as np

from .readers import need_package

PathLike = Union[str, Path]
# One prompt to its embedding (D, ).
Encode = Callable[[str], np.ndarray]

# The release's demo: a begin token, no end token, zeros behind.
MAX_PIECES = 64


def pad_pieces(pieces: Sequence[int], length: int = MAX_PIECES) -> List[int]:
    """Cut or fill a list of token ids with zeros."""
    kept = list(pieces)[:length]
    return kept + [0] * (length - len(kept))


def load_text_model(path: PathLike, tokenizer: PathLike) -> Encode:
    """Load the release's text model.

    TensorFlow runs the graph in the file, so it should come from the authors
    or another source you trust.

    Args:
        path (str | Path): Folder of the SavedModel, ``text_model``.
        tokenizer (str | Path): SentencePiece model, ``dito_tokenizer.model``.

    Returns:
        Callable: Prompt to embedding, float32, shape (D, ). Texts are
        lower-cased.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If TensorFlow or SentencePiece is not installed.
    """
    path = Path(os.path.expanduser(path))
    tokenizer = Path(os.path.expanduser(tokenizer))
    if not (path / 'saved_model.pb').is_file():
        raise FileNotFoundError(
            f'{path} has no saved_model.pb; give the folder of the text '
            'model.')
    if not tokenizer.is_file():
        raise FileNotFoundError(
            f'The tokenizer {tokenizer} does not exist; check the path.')
    tf = need_package('tensorflow', 'tensorflow', f'the text model {path}')
    pieces = need_package('sentencepiece', 'sentencepiece',
                          f'the tokenizer {tokenizer}')
    model: Any = tf.saved_model.load(str(path))
    cutter = pieces.SentencePieceProcessor(model_file=str(tokenizer))

    def encode(text: str) -> np.ndarray:
        ids = cutter.encode(text.lower(), add_bos=True, add_eos=False)
        # One at a time: the exported model need not take a batch.
        batch = tf.constant([pad_pieces(ids)], dtype=tf.int32)
        return np.asarray(model(dict(text=batch))[0], dtype=np.float32)

    return encode


def embed_names(names: Sequence[str], encode: Encode,
                templates: Sequence[str]) -> np.ndarray:
    """Average the embeddings of all prompts of each name.

    As in the release the mean is not normalised; only cosines with it are
    used.

    Args:
        names (Sequence[str]): As words.
        encode (Callable): Prompt to embedding (D, ).
        templates (Sequence[str]): Prompts with ``{}``.

    Returns:
        ndarray: float32, shape (len(names), D).
    """
    return np.stack([
        np.mean([encode(t.replace('{}', name)) for t in templates], axis=0)
        for name in names
    ]).astype(np.float32)
