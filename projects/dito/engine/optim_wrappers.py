# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Training under bfloat16 autocast, on any device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmdet.registry import OPTIM_WRAPPERS
from mmengine.optim import OptimWrapper
from torch import nn

__all__ = ['DITOBF16OptimWrapper']


@OPTIM_WRAPPERS.register_module()
class DITOBF16OptimWrapper(OptimWrapper):
    """:obj:`OptimWrapper` whose forward passes run in bfloat16 autocast.

    mmengine's ``AmpOptimWrapper`` does this too, but only on accelerators
    and always with a gradient scaler. bfloat16 has float32's range and needs
    no scaler, and CPUs support it. ``dito train --amp`` selects this.

    Args:
        Those of :obj:`OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, and no gradient exchange while accumulating.

        Args:
            model (nn.Module): The model that is trained.
        """
        device = next(model.parameters()).device.type
        with (
            super().optim_context(model),
            torch.autocast(device, dtype=torch.bfloat16),
        ):
            yield
