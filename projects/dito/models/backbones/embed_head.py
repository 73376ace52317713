# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""From the tower's last map to the space of the texts."""

import torch
from torch import Tensor, nn

from ..losses.contrastive_ops import full_precision
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
                f'num_heads={num_heads} of the attention pooling.'
            )
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
            2, self.num_heads, -1, x.shape[-1]
        )
        query = self.q(self.latent).view(self.num_heads, -1)
        query = torch.einsum('hd,hdc->hc', query, to_key)
        logits = x @ query.T * to_key.shape[1] ** -0.5
        weights = logits.float().softmax(dim=1).to(x.dtype)
        mean = torch.einsum('nlh,nlc->nhc', weights, x)
        pooled = torch.einsum('nhc,hdc->nhd', mean, to_value).flatten(1)
        pooled = self.proj(pooled + self.kv.bias[x.shape[-1] :])
        return pooled + self.mlp(self.norm(pooled))


# Pooling of the tower: how regions are embedded unless told otherwise.
DENSE_OF_POOL = dict(avg='avg', token='value', attn_pool='attn_pool')


class EmbedHead(nn.Module):
    """How a tower pools its tokens and what follows the pooling.

    DITO's own towers average their last map and are done: their head has no
    parameter. Public towers may pool otherwise, and have a projection into
    the space of the texts, which comes after the pooling of a region as it
    comes after that of the whole image.

    Args:
        embed_dims (int): Channels C of a token.
        pool (str): How the tower pools an image: 'avg', 'token' (the class
            token) or 'attn_pool' (:class:`AttentionPool`).
        dense (str, optional): How a region is embedded: 'avg', the mean of
            its part of the map; 'value', the same of a map whose last layer
            attends to nothing (MaskCLIP); 'attn_pool', the tower's attention
            over the region's part of the map. None chooses by ``pool``:
            'avg', 'value' or 'attn_pool', in the order above.
        out_dims (int, optional): Channels D of the projection. None for no
            projection.
        proj_bias (bool): Whether the projection has a bias.
        norm (bool): Whether the last LayerNorm comes after the pooling (here)
            instead of before (in the tower).
        num_heads (int, optional): Heads of the attention pooling.
        mlp_ratio (float): Hidden channels of its MLP over C.
        act (str): Activation of its MLP.
        norm_eps (float): Epsilon of the LayerNorms.

    Raises:
        ValueError: If an argument is not known or two do not fit together.
    """

    def __init__(
        self,
        embed_dims: int,
        pool: str = 'avg',
        *,
        dense: str | None = None,
        out_dims: int | None = None,
        proj_bias: bool = False,
        norm: bool = False,
        num_heads: int = 1,
        mlp_ratio: float = 4,
        act: str = 'gelu',
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if pool not in DENSE_OF_POOL:
            raise ValueError(
                f'pool={pool!r} is not known: choose from '
                f'{list(DENSE_OF_POOL)}.'
            )
        dense = dense or DENSE_OF_POOL[pool]
        if dense not in DENSE_OF_POOL.values():
            raise ValueError(
                f'dense={dense!r} is not known: choose from '
                f'{list(DENSE_OF_POOL.values())}.'
            )
        if dense == 'attn_pool' and pool != 'attn_pool':
            raise ValueError(
                f"dense='attn_pool' needs a tower that pools by attention, "
                f"this one has pool={pool!r}: take 'avg' or 'value'."
            )
        self.pool, self.dense = pool, dense
        self.out_dims = out_dims or embed_dims
        self.has_norm = norm
        self.attn_pool = (
            AttentionPool(embed_dims, num_heads, mlp_ratio, act, norm_eps)
            if pool == 'attn_pool'
            else None
        )
        self.norm = (
            nn.LayerNorm(embed_dims, eps=norm_eps) if norm else nn.Identity()
        )
        self.proj = (
            nn.Identity()
            if out_dims is None
            else nn.Linear(embed_dims, out_dims, bias=proj_bias)
        )

    def forward(self, feat: Tensor, pool: str | None = None) -> Tensor:
        """Embed maps or parts of maps.

        Args:
            feat (Tensor): Of the last map, has shape (N, C, h, w).
            pool (str, optional): 'attn_pool', or another for the mean. None
                for ``dense``.

        Returns:
            Tensor: float32, has shape (N, D).
        """
        with torch.autocast(feat.device.type, enabled=False):
            if (pool or self.dense) == 'attn_pool':
                tokens = feat.flatten(2).transpose(1, 2)
                pooled = self.attn_pool(tokens.to(self._dtype(feat)))
            else:
                pooled = full_precision(feat).mean(dim=(2, 3))
        return self.finish(pooled)

    def finish(self, pooled: Tensor) -> Tensor:
        """Normalise and project what was pooled.

        Args:
            pooled (Tensor): Has shape (N, C).

        Returns:
            Tensor: float32, has shape (N, D).
        """
        with torch.autocast(pooled.device.type, enabled=False):
            pooled = self.norm(pooled.to(self._dtype(pooled)))
            return full_precision(self.proj(pooled))

    def _dtype(self, x: Tensor) -> torch.dtype:
        """Type of the weights, full precision where there are none."""
        weight = next(self.parameters(), None)
        if weight is not None:
            return weight.dtype
        return torch.promote_types(x.dtype, torch.float32)
