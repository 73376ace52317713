# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Recall of image-text retrieval, free of modules and state."""

from typing import Dict, List, Sequence, Tuple

import torch
from torch import Tensor


def merge_captions(
    captions: Sequence[Tensor], texts: Sequence[Sequence[str]]
) -> Tuple[Tensor, Tensor]:
    """Make one entry of captions with the same words.

    Captions of web images repeat. Two equal ones are one answer to a
    question, and all images that carry it are right: which of them a model
    puts first is chance.

    Args:
        captions (sequence[Tensor]): Unit embeddings (m_i, D) of each image.
        texts (sequence[sequence[str]]): The captions themselves.

    Returns:
        tuple[Tensor, Tensor]: Embeddings (T, D) of the distinct captions, in
        the order of their first appearance, and bool (N, T): which image
        has which.
    """
    number: Dict[str, int] = {}
    rows: List[Tensor] = []
    owners: List[Tuple[int, int]] = []
    for image, (vectors, group) in enumerate(
            zip(captions, texts, strict=True)):
        for vector, text in zip(vectors, group, strict=True):
            if text not in number:
                number[text] = len(rows)
                rows.append(vector)
            owners.append((image, number[text]))
    belongs = torch.zeros(len(texts), len(rows), dtype=torch.bool)
    belongs[tuple(torch.tensor(owners).T)] = True
    return torch.stack(rows), belongs


def ranks(queries: Tensor, candidates: Tensor, belongs: Tensor,
          chunk: int = 1024) -> Tensor:
    """Count the wrong candidates before the best right one of each query.

    A wrong candidate that is exactly as similar counts as before it, so that
    a model with one embedding for everything finds nothing.

    Args:
        queries (Tensor): Unit embeddings (Q, D).
        candidates (Tensor): Unit embeddings (C, D).
        belongs (Tensor): Right candidates of each query, bool (Q, C), at
            least one each.
        chunk (int): Queries at a time, which bounds the memory.

    Returns:
        Tensor: int64 (Q,), 0 where a right one is first.
    """
    parts = []
    for rows, right in zip(queries.split(chunk), belongs.split(chunk),
                           strict=True):
        cosine = rows @ candidates.T
        best = cosine.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        parts.append(((cosine >= best) & ~right).sum(dim=1))
    return torch.cat(parts)


def recalls(image: Tensor, captions: Sequence[Tensor],
            texts: Sequence[Sequence[str]],
            topk: Sequence[int]) -> Dict[str, float]:
    """Recall among the first K in both directions.

    Args:
        image (Tensor): Unit embeddings (N, D).
        captions (sequence[Tensor]): Unit embeddings (m_i, D) of each image.
        texts (sequence[sequence[str]]): The captions themselves.
        topk (sequence[int]): The numbers K.

    Returns:
        dict[str, float]: In percent, ``i2t_R@K``: images with one of their
        captions among the first K; ``t2i_R@K``: distinct captions with one
        of their images among the first K; ``mean_R`` of all these.
    """
    text, belongs = merge_captions(captions, texts)
    found = dict(
        i2t=ranks(image, text, belongs), t2i=ranks(text, image, belongs.T))
    values = {
        f'{name}_R@{k}': 100.0 * (place < k).double().mean().item()
        for name, place in found.items() for k in topk
    }
    return dict(values, mean_R=sum(values.values()) / len(values))
