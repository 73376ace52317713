# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Compiled layers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log


@HOOKS.register_module()
class DITOCompileHook(Hook):
    """Compile the layers of a model, each kind of them once.

    MMEngine's ``compile=True`` compiles a whole step, which assigners and
    samplers break into pieces and every new size of a picture compiles anew.
    Here each layer is compiled by itself, for any size, and layers that are
    alike share the code: a transformer's by how many different lengths its
    windows have.
    What is not listed runs as before, and so do the weights' names in
    checkpoints. ``dito train --compile`` adds this hook.

    Args:
        parts (Sequence[str]): Names of the classes to compile. Defaults to
            the layers of :class:`DITOViT`, of open_clip's towers and of the
            teacher, the proposal head, and the convolutions of the pyramid
            and of the box and mask heads. The pyramid as a whole is none of
            them: PyTorch's compiler (2.11) cannot order the strides of its
            maps, channels last and of any size, and ends with an error.
        options (dict, optional): Arguments of :func:`torch.compile`, such as
            ``backend``. ``dynamic`` is True unless given.

    Raises:
        ValueError: If the model has none of ``parts`` when the run begins.
    """

    def __init__(
        self,
        parts: Sequence[str] = (
            'Block',
            'ResidualAttentionBlock',
            'DITORPNHead',
            'ConvModule',
        ),
        options: dict[str, Any] | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self.options = dict(dynamic=True) | (options or {})

    def before_run(self, runner: Any) -> None:
        """Have the layers compiled at their first call."""
        found: Counter[str] = Counter()
        for module in runner.model.modules():
            name = type(module).__name__
            if name in self.parts:
                module.compile(**self.options)
                found[name] += 1
        if not found:
            raise ValueError(
                f'DITOCompileHook finds none of {list(self.parts)} in the '
                'model; name the classes of its layers in parts.'
            )
        # Few kinds of layers times few sets of windows, with and without
        # gradients: more than the 8 after which PyTorch compiles no more.
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, 32)
        listed = ', '.join(f'{n} {name}' for name, n in found.items())
        print_log(
            f'Compiling {listed}: the first iterations take minutes.',
            'current',
        )
