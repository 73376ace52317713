# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What all text towers have in common."""

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor

from dito.utils.checkpoint import hash_of

from ..losses.contrastive_ops import normalize


class BaseTextEncoder(BaseModule):
    """Text tower that needs only a way to tokenize and to embed.

    Args:
        embed_dims (int): Channels D of an embedding.
        init_cfg (dict, optional): Initialization config. Defaults to None.
    """

    def __init__(self, embed_dims: int, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self._hashed: tuple[Any, str] = (None, '')
        self.register_load_state_dict_pre_hook(_forget_hash)

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Turn N texts into tokens, int64 (N, L) on the CPU."""

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens, (N, D), not normalised."""

    def shorten(self, tokens: Tensor) -> Tensor:
        """Cut tokens on the CPU (N, L) where the tower needs fewer."""
        return tokens

    def order(self, tokens: Tensor) -> Tensor:
        """Choose the order that texts are embedded in, int64 (N, )."""
        return torch.arange(len(tokens))

    def facts(self) -> list[Any]:
        """What decides an embedding beside the weights, as json holds it."""
        return [type(self).__name__]

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Embed texts without gradient, in evaluation mode.

        Unit vectors, float32, (N, embed_dims), on the tower's device.
        """
        tokens = self.tokenize(texts)
        weight = next(self.parameters(), None)
        device = tokens.device if weight is None else weight.device
        result = torch.empty(len(texts), self.embed_dims, device=device)
        training = self.training
        self.eval()
        try:
            with torch.autocast(device.type, enabled=False):
                for index in self.order(tokens).split(batch_size):
                    result[index.to(device)] = normalize(
                        self(self.shorten(tokens[index]).to(device))
                    ).float()
        finally:
            self.train(training)
        return result

    def fingerprint(self) -> str:
        """Hex sha256 of what decides an embedding, :meth:`facts` and weights.

        Hashing takes about a second for a ViT-L tower. The result is kept
        while no parameter requires a gradient and every tensor is the same
        one, unwritten: ``load_state_dict``, ``.to()`` and operations in place
        make it anew, also under ``no_grad``. Only a write around torch's
        version counters, through ``.data``, goes unseen.
        """
        state = self._weights_key()
        if state is None or state != self._hashed[0]:
            self._hashed = (state, self._hash())
        return self._hashed[1]

    def _weights_key(self) -> tuple[Any, ...] | None:
        """What changes with any tensor; None where that cannot be told."""
        tensors = [*self.parameters(), *self.buffers()]
        # A tower in training is hashed each time: averaged weights, for
        # one, are swapped in through .data.
        if any(t.requires_grad or t.is_inference() for t in tensors):
            return None
        return (
            self._written_facts(),
            *((id(t), t.data_ptr(), t._version) for t in tensors),
        )

    def _written_facts(self) -> str:
        return json.dumps(self.facts(), sort_keys=True)

    def _apply(
        self, fn: Callable[[Tensor], Tensor], *args: Any
    ) -> 'BaseTextEncoder':
        # New memory may lie where freed memory was.
        self._hashed = (None, '')
        return super()._apply(fn, *args)

    def _hash(self) -> str:
        return hash_of(self._written_facts(), self.state_dict())


def _forget_hash(module: BaseTextEncoder, *_: Any) -> None:
    """Take a fingerprint anew after any loading."""
    module._hashed = (None, '')
