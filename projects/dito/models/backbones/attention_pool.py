# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Pooling of tokens by one learnt query."""

import torch
from torch import Tensor, nn

from .vit_layers import MLP


class AttentionPool(nn.Module):
    """Attention of one learnt query over tokens, then an MLP (SigLIP).

    With a single query neither keys nor values need to be made for every
    token: the query is taken through the key projection once, and the value
    projection is applied to the weighted mean of the tokens. For a thousand
    regions of 14 x 14 tokens this is some fifty times less arithmetic. The
    bias of the keys adds the same number to all logits and falls out of the
    softmax.

    Args:
        embed_dims (int): Channels C of a token.
        num_heads (int): Number of heads, a divisor of C.
        mlp_ratio (float): Hidden channels of the MLP over C.
        act (str): Activation of the MLP.
        norm_eps (float): Epsilon of the LayerNorm before the MLP.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float,
        act: str,
        norm_eps: float,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(
                f'embed_dims={embed_dims} is not divisible by the '
                f'num_heads={num_heads} of the attention pooling.')
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.q = nn.Linear(embed_dims, embed_dims)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.norm = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.mlp = MLP(embed_dims, int(embed_dims * mlp_ratio), act)

    def forward(self, x: Tensor) -> Tensor:
        """Pool sets of tokens.

        Args:
            x (Tensor): Has shape (N, L, C).

        Returns:
            Tensor: Has shape (N, C).
        """
        # (2C, C) -> twice (heads, C / heads, C)
        to_key, to_value = self.kv.weight.view(
            2, self.num_heads, -1, x.shape[-1])
        query = self.q(self.latent).view(self.num_heads, -1)
        query = torch.einsum('hd,hdc->hc', query, to_key)
        logits = x @ query.T * to_key.shape[1]**-0.5
        weights = logits.float().softmax(dim=1).to(x.dtype)
        mean = torch.einsum('nlh,nlc->nhc', weights, x)
        pooled = torch.einsum('nhc,hdc->nhd', mean, to_value).flatten(1)
        pooled = self.proj(pooled + self.kv.bias[x.shape[-1]:])
        return pooled + self.mlp(self.norm(pooled))
