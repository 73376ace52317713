# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Whether a converted tower gives the source's embeddings."""

from typing import Dict

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from .convert import ConvertedTower
from .source import TowerSource


@torch.no_grad()
def feature_error(source: TowerSource, tower: ConvertedTower,
                  batch: int = 2) -> Dict[str, float]:
    """Compare embeddings of random images and texts, at the native size.

    Args:
        source (TowerSource): The original.
        tower (ConvertedTower): Converted from it and not yet resampled.
        batch (int): Images and texts.

    Returns:
        dict[str, float]: Largest difference of a component of the unit
        embeddings, for 'image' and, with a text tower, 'text'.
    """
    generator = torch.Generator().manual_seed(0)
    size = tower.backbone['img_size']
    image = torch.randn(batch, 3, size, size, generator=generator)
    backbone = _build(tower.backbone, tower.state, 'backbone.')
    errors = dict(image=_error(
        source_image(source, image), backbone.embed(image)))
    del backbone
    if tower.text_encoder is not None:
        tokens = random_tokens(source.model, batch, generator)
        text = _build(tower.text_encoder, tower.state, 'text_encoder.')
        errors['text'] = _error(
            source.model.encode_text(tokens), text(tokens))
    return errors


def source_image(source: TowerSource, image: Tensor) -> Tensor:
    """The source's own embedding of images.

    Args:
        source (TowerSource): The original.
        image (Tensor): Has shape (B, 3, H, W).

    Returns:
        Tensor: Has shape (B, D).
    """
    if source.library == 'open_clip':
        return source.model.encode_image(image)
    feat = source.model.forward_features(image)
    return source.model.forward_head(feat, pre_logits=True)


def random_tokens(model: nn.Module, batch: int,
                  generator: torch.Generator) -> Tensor:
    """Texts of random length: start, pieces, end (the largest id), zeros.

    Args:
        model (nn.Module): An open_clip model, for the sizes.
        batch (int): Number of texts N.
        generator (torch.Generator): Source of randomness.

    Returns:
        Tensor: int64, has shape (N, context length).
    """
    length, last = model.context_length, model.vocab_size - 1
    tokens = torch.randint(
        1, last - 1, (batch, length), generator=generator)
    ends = torch.randint(2, length, (batch, ), generator=generator)
    places = torch.arange(length)
    tokens[places > ends[:, None]] = 0
    tokens[:, 0] = last - 1
    tokens[torch.arange(batch), ends] = last
    return tokens


def _build(config: Dict, state: Dict[str, Tensor],
           prefix: str) -> nn.Module:
    """Build a tower with its part of the weights."""
    module = MODELS.build(config)
    module.load_state_dict({
        k[len(prefix):]: v
        for k, v in state.items() if k.startswith(prefix)
    })
    return module.eval()


def _error(first: Tensor, second: Tensor) -> float:
    difference = F.normalize(first, dim=1) - F.normalize(second, dim=1)
    return float(difference.abs().max())
