# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Algebra of the image-text contrastive loss, free of modules and state.

Notation: ``N`` pairs in the whole batch (over all ranks), ``n`` of them on
this rank (the *rows*, which carry gradients here), ``D`` channels. All
functions compute in float32 whatever the input type or the autocast state;
float64 is kept, so that tests can be exact.

Every function that returns the share of one rank scales it by the number of
ranks ``W``. DistributedDataParallel averages gradients over ranks, so the
gradient of the whole batch comes out, and the mean over ranks of the
returned values is the value of the whole batch:
``1/W * sum_r W * share_r = sum_r share_r``. This holds for uneven shares too.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as torch_dist
import torch.nn.functional as F
from mmengine.dist import get_world_size
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def full_precision(x: Tensor) -> Tensor:
    """Cast to float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def normalize(x: Tensor) -> Tensor:
    """L2-normalise the last axis in full precision; a zero row stays zero."""
    return F.normalize(full_precision(x), dim=-1)


class Gathered(NamedTuple):
    """Rows of all ranks, (N, D), and the index of the first of this rank."""

    rows: Tensor
    start: int
    world_size: int


# Backward sums over ranks what each has to say about a row, for its owner.
class _GatherRows(torch.autograd.Function):
    """All-gather of row blocks of any height, with gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, counts: list[int]) -> Tensor:
        """Gather (n_r, D) blocks of every rank r into (sum n_r, D)."""
        ctx.counts = counts
        height = max(counts)
        padded = x.new_zeros((height, *x.shape[1:]))
        padded[: x.shape[0]] = x
        blocks = [torch.empty_like(padded) for _ in counts]
        torch_dist.all_gather(blocks, padded)
        return torch.cat([b[:n] for b, n in zip(blocks, counts, strict=True)])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        """Sum the gradients over ranks and keep the own rows."""
        grad = grad.contiguous()
        torch_dist.all_reduce(grad)
        rank = torch_dist.get_rank()
        start = sum(ctx.counts[:rank])
        return grad[start : start + ctx.counts[rank]], None


def gather_rows(x: Tensor) -> Gathered:
    """Concatenate the rows (n, D) of all ranks, with gradient.

    ``n`` may differ between ranks and may be 0; every rank must call this.
    """
    world_size = get_world_size()
    if world_size == 1:
        return Gathered(x, 0, 1)
    own = torch.tensor([x.shape[0]], device=x.device)
    counts = [torch.empty_like(own) for _ in range(world_size)]
    torch_dist.all_gather(counts, own)
    sizes = [int(c) for c in torch.cat(counts).tolist()]
    start = sum(sizes[: torch_dist.get_rank()])
    return Gathered(_GatherRows.apply(x, sizes), start, world_size)


class Pairs(NamedTuple):
    """This rank's pairs beside those of all ranks, all L2-normalised.

    ``image`` and ``text`` are (n, D); ``images`` (None where they were not
    asked for) and ``texts`` those of all ranks, (N, D), of which this rank's
    first is ``start``.
    """

    image: Tensor
    text: Tensor
    images: Tensor | None
    texts: Tensor
    start: int
    world_size: int

    def targets(self) -> Tensor:
        """Columns of the rows' own partners, shape (n,), int64."""
        return self.start + torch.arange(
            len(self.image), device=self.image.device
        )

    def part(self, begin: int, end: int) -> 'Pairs':
        """Return the same with rows ``begin`` to ``end`` only."""
        return self._replace(
            image=self.image[begin:end],
            text=self.text[begin:end],
            start=self.start + begin,
        )


def gather_pairs(
    images: Sequence[Tensor], text: Tensor, gather_images: bool = True
) -> list[Pairs]:
    """Normalise embeddings and gather them from all ranks at one go.

    Several image embeddings, (n, D) each, may share one text, such as those of
    pyramid levels: the texts are normalised and sent once, and everything
    travels in one message. Losses that are sums over the matrix do without
    image columns. ValueError if the shapes differ.
    """
    for image in images:
        _check_pairs(image, text)
    text = normalize(text)
    rows = [normalize(image) for image in images]
    sent = [text, *rows] if gather_images else [text]
    # A single tensor, and with one process every tensor, is gathered as it
    # is, so that rows and columns stay one object.
    if get_world_size() == 1:
        columns, start, world_size = sent, 0, 1
    else:
        message = torch.cat(sent, dim=1) if len(sent) > 1 else text
        gathered = gather_rows(message)
        columns = gathered.rows.split([x.shape[1] for x in sent], dim=1)
        start, world_size = gathered.start, gathered.world_size
    return [
        Pairs(
            row,
            text,
            columns[i] if gather_images else None,
            columns[0],
            start,
            world_size,
        )
        for i, row in enumerate(rows, start=1)
    ]


def sum_over_rows(
    share: Callable[[Pairs], Tensor], pairs: Pairs, chunk: int | None = None
) -> Tensor:
    """Sum a loss over rows, with the matrix of ``chunk`` rows at a time.

    Their part of the matrix is computed again in the backward pass, so that
    memory grows with ``chunk * N`` instead of ``n * N``.
    """
    num_rows = len(pairs.image)
    if chunk is None or num_rows <= chunk:
        return share(pairs)
    parts = [
        checkpoint(
            share, pairs.part(i, min(i + chunk, num_rows)), use_reentrant=False
        )
        for i in range(0, num_rows, chunk)
    ]
    return torch.stack(parts).sum()


def similarity(rows: Tensor, columns: Tensor, logit_scale: Tensor) -> Tensor:
    """Scaled cosines (n, N) of unit rows and columns, outside autocast."""
    with torch.autocast(rows.device.type, enabled=False):
        scale = full_precision(torch.as_tensor(logit_scale))
        return (full_precision(rows) * scale) @ full_precision(columns).t()


def info_nce_rows(
    image_rows: Tensor,
    text_rows: Tensor,
    image_columns: Tensor,
    text_columns: Tensor,
    logit_scale: Tensor,
    start: int = 0,
) -> Tensor:
    """Sum over some rows of the symmetric InfoNCE loss, paper Eq. (1).

    Rows, (n, D), and columns, (N, D), all normalised, are separate arguments:
    columns may come from other ranks, or from a cache of features without
    gradient. Row ``i`` belongs to column ``start + i``. It is the sum over the
    n rows of the mean of the image-to-text and the text-to-image cross
    entropy; divide by N for the loss.
    """
    num_rows = image_rows.shape[0]
    targets = torch.arange(start, start + num_rows, device=image_rows.device)
    to_text = similarity(image_rows, text_columns, logit_scale)
    square = image_rows is image_columns and text_rows is text_columns
    # With all rows at hand one matrix serves both directions.
    to_image = (
        to_text.t()
        if square
        else similarity(text_rows, image_columns, logit_scale)
    )
    return 0.5 * (
        F.cross_entropy(to_text, targets, reduction='sum')
        + F.cross_entropy(to_image, targets, reduction='sum')
    )


def focal_matrix_loss(
    logits: Tensor, targets: Tensor, alpha: float = 0.5, gamma: float = 1.0
) -> Tensor:
    """Sum of the sigmoid focal loss over a similarity matrix, times two.

    The focal contrastive loss of RO-ViT as in the authors' release: every
    entry of (..., n, N) is a yes/no decision, the pair in the column of
    ``targets`` the positive one, of weight ``alpha``; negatives get ``1 -
    alpha``. ``gamma`` is the exponent of the error probability.
    """
    logits = full_precision(logits)
    positive = _is_target(logits, targets)
    signed = torch.where(positive, logits, -logits)
    weight = torch.where(positive, alpha, 1.0 - alpha).to(logits)
    # Probability of the wrong answer to the power gamma, by logarithms: the
    # gradient of 0 ** gamma stays finite where the answer is sure.
    modulator = torch.exp(gamma * F.logsigmoid(-signed))
    return 2.0 * (weight * modulator * -F.logsigmoid(signed)).sum()


def sigmoid_pair_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over (n, N) of SigLIP's loss, ``-log sigmoid(+-logit)``.

    Scale and bias are applied; ``targets`` are columns of the positives.
    """
    logits = full_precision(logits)
    positive = _is_target(logits, targets)
    return -F.logsigmoid(torch.where(positive, logits, -logits)).sum()


def _is_target(logits: Tensor, targets: Tensor) -> Tensor:
    """Mark the positives, bool, of the logits' shape (one_hot is int64)."""
    columns = torch.arange(logits.shape[-1], device=logits.device)
    return targets[..., None] == columns


def _check_pairs(image: Tensor, text: Tensor) -> None:
    """Refuse embeddings that are not pairs of one shape (n, D)."""
    if image.shape != text.shape or image.dim() != 2:
        raise ValueError(
            'Image and text embeddings must be pairs of one shape (N, D), '
            f'got {tuple(image.shape)} and {tuple(text.shape)}; give the text '
            'tower the width of the image embedding (embed_dims).'
        )
