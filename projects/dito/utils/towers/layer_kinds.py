# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Names for what is found in a source's modules."""

from typing import Any, Dict, NoReturn, Sequence, Union

from torch import nn

from dito.models.backbones.vit_arch import ARCHS, VitArch


def refuse(what: str) -> NoReturn:
    """Say that a tower has a part that DITOViT has not."""
    raise ValueError(
        f'This tower has {what}, which DITOViT has not; '
        'docs/pretrained_towers.md lists the kinds that can be converted.')


def act_name(module: nn.Module) -> str:
    """Name of an activation for DITOViT.

    Args:
        module (nn.Module): Of torch, open_clip or timm.

    Returns:
        str: 'gelu', 'gelu_tanh' or 'quick_gelu'.
    """
    kind = type(module).__name__
    if kind == 'GELUTanh' or getattr(module, 'approximate', '') == 'tanh':
        return 'gelu_tanh'
    names = dict(GELU='gelu', QuickGELU='quick_gelu')
    if kind not in names:
        refuse(f'the activation {kind}')
    return names[kind]


def named_arch(dims: int, layers: int, heads: int,
               hidden: int) -> Union[str, Dict[str, Any]]:
    """Name of an architecture, or its sizes where it has none.

    Args:
        dims (int): Channels of a token.
        layers (int): Number of layers.
        heads (int): Number of heads.
        hidden (int): Hidden channels of an MLP.
    """
    sizes = VitArch(dims, layers, heads, hidden / dims)
    for name, known in ARCHS.items():
        if sizes == known:
            return name
    ratio = sizes.mlp_ratio
    # The layers are made with int(dims * ratio); a rounded-down quotient
    # would lose a channel.
    while int(dims * ratio) < hidden:
        ratio += 1e-9
    return dict(embed_dims=dims, num_layers=layers, num_heads=heads,
                mlp_ratio=ratio)


def single(sides: Union[int, Sequence[int]], what: str) -> int:
    """The side of what must be square."""
    sides = [sides] if isinstance(sides, int) else list(sides)
    if len(set(sides)) != 1:
        refuse(f'{what} of {" x ".join(map(str, sides))} pixels')
    return sides[0]
