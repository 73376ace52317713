# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""One optimisation step of a large contrastive batch in small pieces.

The contrastive loss couples all samples of a batch, so averaging the losses of
micro-batches is another objective. Caching the embeddings is exact (Gao et
al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
RepL4NLP 2021): embed all micro-batches without gradient; take the loss of the
whole batch and its gradient to the embeddings; embed each micro-batch again,
with gradient, and backpropagate the cached gradient of its embeddings. Memory
is that of one micro-batch plus the embeddings; the price is a second forward
pass.
"""

from contextlib import nullcontext
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from dito.models.utils import unwrap_model

Batch = dict[str, Any]
Features = dict[str, Tensor]


def split_batch(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch, with its ``place``, into micro-batches in order."""
    total = len(batch['inputs'])
    pieces = []
    for start in range(0, total, size):
        piece = {}
        for name, value in batch.items():
            if name == 'place':
                piece[name] = value.moved(start)
            else:
                piece[name] = value[start : start + size]
        pieces.append(piece)
    return pieces


def cached_train_step(
    model: nn.Module,
    batch: Batch,
    optim_wrapper: OptimWrapper,
    micro_batch: int,
) -> dict[str, Tensor]:
    """Do one optimisation step of a pretrainer, by feature caching.

    The model may be in a distributed wrapper; the optimiser's own accumulation
    must be off. Returns values to log, those of the whole batch.
    """
    core = unwrap_model(model)
    # Each goes to the device when it is embedded, and the whole never does.
    pieces = split_batch(batch, micro_batch)
    with optim_wrapper.optim_context(model):
        features, local = _embed_all(model, pieces)
        losses = core.contrast(features)
    parsed, log_vars = core.parse_losses({**losses, **local})
    grads = _feature_grads(parsed, features, core)
    total = len(batch['inputs'])
    for i, piece in enumerate(pieces):
        last = i == len(pieces) - 1
        with _no_sync(model, not last):
            with optim_wrapper.optim_context(model):
                data = core.data_preprocessor(piece, True)
                embedded, additive = model(**data, mode='embed')
                loss = _surrogate(
                    embedded, additive, grads, i * micro_batch, total
                )
                if last:  # inside the forward of the synchronised pass
                    loss = loss + _parameter_term(core, grads)
            optim_wrapper.backward(loss)
    optim_wrapper.step()
    optim_wrapper.zero_grad()
    return log_vars


@torch.no_grad()
def _embed_all(
    model: nn.Module, pieces: list[Batch]
) -> tuple[Features, Features]:
    """Embed all micro-batches; embeddings as leaves, mean additive losses."""
    collected: dict[str, list[Tensor]] = {}
    local: Features = {}
    total = sum(len(piece['inputs']) for piece in pieces)
    core = unwrap_model(model)
    for piece in pieces:
        data = core.data_preprocessor(piece, True)
        embedded, additive = core(**data, mode='embed')
        for name, value in embedded.items():
            collected.setdefault(name, []).append(value)
        share = len(piece['inputs']) / total
        for name, value in additive.items():
            local[name] = local.get(name, 0) + share * value
    features = {name: torch.cat(value) for name, value in collected.items()}
    for value in features.values():
        value.requires_grad_()
    return features, local


def _feature_grads(
    loss: Tensor, features: Features, core: nn.Module
) -> Features:
    """Return the gradient of the loss to embeddings, temperature, bias."""
    leaves = {**features, **core.contrast_parameters()}
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {
        name: grad
        for name, grad in zip(leaves, grads, strict=True)
        if grad is not None
    }


def _surrogate(
    embedded: Features,
    additive: Features,
    grads: Features,
    start: int,
    total: int,
) -> Tensor:
    """Build a scalar whose gradient is this micro-batch's part."""
    size = len(next(iter(embedded.values())))
    terms = [
        (value * grads[name][start : start + size]).sum()
        for name, value in embedded.items()
        if name in grads and value.requires_grad
    ]
    terms += [
        value * (size / total)
        for name, value in additive.items()
        if 'loss' in name
    ]
    return torch.stack(terms).sum()


def _parameter_term(core: nn.Module, grads: Features) -> Tensor:
    """Pass on the gradients of temperature and bias."""
    terms = [
        value * grads[name]
        for name, value in core.contrast_parameters().items()
        if name in grads
    ]
    return sum(terms, torch.zeros((), device=core.logit_scale.device))


def _no_sync(model: nn.Module, active: bool) -> Any:
    """Suspend gradient exchange of a distributed wrapper."""
    if active and hasattr(model, 'no_sync'):
        return model.no_sync()
    return nullcontext()
