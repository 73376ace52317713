# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Helpers shared by detectors and pretrainers."""

import zlib
from operator import index
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import is_model_wrapper
from torch import Tensor, nn


def is_symbolic(*sizes: Any) -> bool:
    """Whether a size is left open in a graph that is being exported.

    Compiled code is of one size, whatever the compiler makes of it.
    """
    return not torch.compiler.is_dynamo_compiling() and any(
        isinstance(size, torch.SymInt) for size in sizes
    )


def known_size(size: Any) -> Any:
    """A size as a plain number, unless it is left open.

    While PyTorch traces a graph sizes may be tensors of one number.
    """
    return size if is_symbolic(size) else index(size)


# The message has room for this many values, and is a multiple of it, so that
# ranks with different keys still send messages of one size and can tell.
LOG_SLOTS = 64


def reduce_log_vars(log_vars: dict[str, Tensor]) -> dict[str, Tensor]:
    """Average scalars, without gradient, over ranks with one all-reduce.

    RuntimeError if their names differ between ranks.
    """
    if get_world_size() == 1 or not log_vars:
        return log_vars
    names = list(log_vars)
    device = log_vars[names[0]].device
    check = float(zlib.crc32(','.join(names).encode()))
    room = -(-(len(names) + 1) // LOG_SLOTS) * LOG_SLOTS
    message = torch.zeros(room, dtype=torch.float64, device=device)
    message[0] = check
    message[1 : 1 + len(names)] = torch.stack(
        [log_vars[n].detach().to(message) for n in names]
    )
    all_reduce(message, op='mean')
    # The mean of the checksums is the own one if all are the same.
    if abs(message[0].item() - check) > 0.25:
        raise RuntimeError(
            'Ranks log different values, this one '
            f'{names}; every rank must return the same keys.'
        )
    return {
        n: message[1 + i].to(log_vars[n].dtype) for i, n in enumerate(names)
    }


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model itself, out of a wrapper such as DistributedDataParallel."""
    return model.module if is_model_wrapper(model) else model


class DistributedLogMixin:
    """Logs losses as means over ranks; goes before ``BaseModel``.

    Without it each rank logs its own share, so numbers of runs with more
    than one process are not comparable. The loss that is back-propagated
    stays this rank's, and ``local_log_vars`` has its values of the last step.
    """

    def parse_losses(
        self, losses: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """This rank's total loss, and the scalars of a step to log."""
        loss, log_vars = super().parse_losses(losses)
        self.local_log_vars = {n: v.detach() for n, v in log_vars.items()}
        return loss, reduce_log_vars(log_vars)


# In MMEngine's root registry, so that mmcv finds it under any default scope.
