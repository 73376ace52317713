# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Sizes of the vision transformers known by name."""

from typing import Dict, NamedTuple, Union


class VitArch(NamedTuple):
    """Sizes of a vision transformer.

    Attributes:
        embed_dims (int): Channels C of a token.
        num_layers (int): Number of transformer layers.
        num_heads (int): Number of attention heads, a divisor of C.
        mlp_ratio (float): Hidden channels of the MLP over C.
    """

    embed_dims: int
    num_layers: int
    num_heads: int
    mlp_ratio: float = 4


ARCHS: Dict[str, VitArch] = dict(
    tiny=VitArch(192, 12, 3),
    small=VitArch(384, 12, 6),
    base=VitArch(768, 12, 12),
    large=VitArch(1024, 24, 16),
    huge=VitArch(1280, 32, 16),
)


def read_arch(arch: Union[str, dict]) -> VitArch:
    """Look an architecture up by name, or check a given one.

    Args:
        arch (str | dict): A key of :data:`ARCHS`, or a dict with
            ``embed_dims``, ``num_layers``, ``num_heads`` and optionally
            ``mlp_ratio``.

    Returns:
        VitArch: Its sizes.

    Raises:
        ValueError: If the name is not known, a key is missing or unknown, or
            the heads do not divide the channels.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(
                f'arch={arch!r} is not known: choose from {list(ARCHS)} or '
                'give a dict.')
        return ARCHS[arch]
    needed = {'embed_dims', 'num_layers', 'num_heads'}
    if not needed <= set(arch) <= needed | {'mlp_ratio'}:
        raise ValueError(
            f'arch has the keys {sorted(arch)}, but needs {sorted(needed)} '
            'and may have mlp_ratio.')
    sizes = VitArch(**arch)
    if sizes.embed_dims % sizes.num_heads:
        raise ValueError(
            f'embed_dims={sizes.embed_dims} is not divisible by '
            f'num_heads={sizes.num_heads}.')
    return sizes
