# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Operations of a pretraining step, by arithmetic.

A multiplication with its addition counts as two operations. Counted are
matrix products and convolutions, and the two products of attention (over all
pairs of a set, causal or not); norms, activations and the loss are not. A
layer of width D and MLP ratio r does for N tokens that attend to S each

    2 N D^2 (4 + 2 r) + 4 N S D

operations. A trained part counts three times in a step (forward, and twice
that backward), a frozen one once. Passes that save memory, by activation
checkpointing or feature caching, are no useful work and are not counted, as
is usual for the model FLOP utilisation (Chowdhery et al., "PaLM", 2022).
"""

import math
from typing import Any, Dict, Sequence, Tuple

from torch import nn

from dito.models.backbones import DITOViT
from dito.models.text import DITOTextEncoder

Size = Tuple[int, int]


def layer_flops(layer: nn.Module, width: int, tokens: int,
                attended: int) -> int:
    """Count one transformer layer, forward.

    Args:
        layer (nn.Module): Its parameters of two axes are linear maps.
        width (int): Channels D of a token.
        tokens (int): Number of tokens N.
        attended (int): Number of tokens S that each attends to.

    Returns:
        int: Operations.
    """
    weights = sum(p.numel() for p in layer.parameters() if p.ndim == 2)
    return 2 * weights * tokens + 4 * tokens * attended * width


def conv_flops(conv: nn.Module, positions: float) -> int:
    """Count one convolution, forward.

    Args:
        conv (nn.Conv2d | nn.ConvTranspose2d): The convolution.
        positions (float): Places of the output; of a transposed one, places
            of the input.

    Returns:
        int: Operations.
    """
    return int(2 * conv.weight.numel() * positions)


def vit_flops(tower: nn.Module, size: Size) -> int:
    """Count a :class:`DITOViT` on one image, forward.

    Args:
        tower (DITOViT): The tower, with or without windows and shift.
        size (tuple[int, int]): Height and width of the image in pixels.

    Returns:
        int: Operations.
    """
    positions, total = size[0] * size[1], 0
    for conv in tower.patch_embed.modules():
        if isinstance(conv, nn.Conv2d):
            positions /= math.prod(conv.stride)
            total += conv_flops(conv, positions)
    grid = tuple(math.ceil(side / tower.patch_size) for side in size)
    class_token = int(tower.cls_token is not None)
    tokens, plan = math.prod(grid) + class_token, tower.plan
    for number, block in enumerate(tower.blocks):
        attended = tokens
        if number not in plan.global_layers:
            window = plan.spec(grid, shifted=False).window
            attended = min(tokens, math.prod(window) + class_token)
        passes = 2 if plan.shift == 'swl' and (
            number >= plan.first_windowed) else 1
        total += passes * layer_flops(block, tower.embed_dims, tokens,
                                      attended)
    return total


def text_flops(encoder: nn.Module, length: int) -> int:
    """Count a :class:`DITOTextEncoder` on one text, forward.

    Args:
        encoder (DITOTextEncoder): The text tower.
        length (int): Number of tokens it is run on.

    Returns:
        int: Operations.
    """
    tower, width = encoder.tower, encoder.arch['width']
    layers = sum(
        layer_flops(block, width, length, length)
        for block in tower.transformer.resblocks)
    return layers + 2 * tower.text_projection.numel()


def pyramid_flops(neck: nn.Module, places: int) -> int:
    """Count a :class:`SimpleFPN` on one image, forward.

    Args:
        neck (SimpleFPN): The pyramid.
        places (int): Number of cells of the backbone's map.

    Returns:
        int: Operations.
    """
    total = (
        conv_flops(neck.up4[0], places) + conv_flops(neck.up4[3], 4 * places)
        + conv_flops(neck.up2, places))
    for factor, lateral, conv in zip(_LEVELS, neck.lateral_convs,
                                     neck.fpn_convs, strict=True):
        total += conv_flops(lateral.conv, factor * places)
        total += conv_flops(conv.conv, factor * places)
    return total


def proposal_flops(head: nn.Module, places: int) -> int:
    """Count the objectness of a :class:`DITORPNHead`, forward."""
    convs = [*head.rpn_convs, head.rpn_cls]
    return sum(
        conv_flops(conv, factor * places) for conv in convs
        for factor in _LEVELS)


def region_flops(head: nn.Module, cells: int) -> int:
    """Count the embedding of one region by a :class:`DITOBBoxHead`.

    Args:
        head (DITOBBoxHead): The box head.
        cells (int): Number of cells of a region's features.

    Returns:
        int: Operations, forward.
    """
    total = sum(conv_flops(layer.conv, cells) for layer in head.shared_convs)
    return total + 2 * (
        head.shared_fc.weight.numel() + head.fc_embed.weight.numel())


# Cells of P2 to P5 over those of the backbone's map.
_LEVELS = (16, 4, 1, 0.25)


def step_flops(model: nn.Module, batch: Dict[str, Any]) -> int:
    """Count a pretraining step, for one image with its text.

    Args:
        model (nn.Module): :class:`CLIPPretrainer` or
            :class:`RegionCentricPretrainer`.
        batch (dict): ``inputs`` (B, 3, H, W) and ``texts``; the texts tell
            how long texts are run through the text tower.

    Returns:
        int: Operations; 0 for any other model or tower.
    """
    tower = getattr(model, 'backbone', None)
    encoder = getattr(model, 'text_encoder', None)
    if 'texts' not in batch or not (isinstance(tower, DITOViT)
                                    and isinstance(encoder, DITOTextEncoder)):
        return 0
    size = tuple(batch['inputs'].shape[-2:])
    length = text_length(encoder, batch['texts'])
    towers = [(tower, vit_flops(tower, size)),
              (encoder, text_flops(encoder, length))]
    total = sum(
        flops * (3 if _trained(part) else 1) for part, flops in towers)
    return total + 3 * _heads_flops(model, size)


def text_length(encoder: nn.Module, texts: Sequence[str]) -> int:
    """Return the number of tokens that the longest text is run on."""
    tokens = encoder.tokenize(texts)
    longest = int(tokens.argmax(dim=-1).max()) + 1
    return min(-(-longest // 8) * 8, encoder.context_length)


def _heads_flops(model: nn.Module, size: Size) -> int:
    """Count pyramid and heads of region-centric pretraining, forward."""
    neck = getattr(model, 'neck', None)
    if neck is None:
        return 0
    places = math.prod(
        math.ceil(side / model.backbone.patch_size) for side in size)
    total = pyramid_flops(neck, places)
    if getattr(model, 'rpn_head', None) is not None:
        total += proposal_flops(model.rpn_head, places)
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None:
        side = roi_head.bbox_roi_extractor.roi_layers[0].output_size
        total += _num_regions(model) * region_flops(roi_head.bbox_head,
                                                    math.prod(side))
    return total


def _num_regions(model: nn.Module) -> int:
    """Number of regions that are embedded for an image."""
    boxes = sum(model.regions.num_regions)
    if not model.pooling.startswith('global_'):
        return boxes
    # Whole maps, and the boxes only for the proposal head.
    return len(_LEVELS) + (0 if model.rpn_head is None else boxes)


def _trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
