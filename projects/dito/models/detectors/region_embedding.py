# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Between a backbone that embeds regions and the head that scores them."""

from torch import nn

from ..backbones import EmbedHead
from ..protocols import EmbeddingTower, lacking


def connect_regions(detector: nn.Module) -> None:
    """Let the RoI head embed regions as the backbone does.

    The backbone that gives the VLM score, frozen or trained, also says how
    regions of its map become embeddings. What follows its pooling stays as
    pretrained: texts are frozen, and without distillation nothing would
    train it.

    Args:
        detector (DITO): With ``backbone``, ``vlm_backbone`` and ``roi_head``.

    Raises:
        ValueError: If embeddings of regions and texts, or regions and the
            RoI extractor do not fit.
    """
    head = getattr(detector.backbone, 'head', None)
    if isinstance(head, EmbedHead):
        head.requires_grad_(False)
    backbone = detector.vlm_backbone
    backbone = detector.backbone if backbone is None else backbone
    roi_head = detector.roi_head
    extractor = getattr(roi_head, 'vlm_roi_extractor', None)
    if extractor is None or lacking(backbone, EmbeddingTower):
        return
    texts, regions = roi_head.bbox_head.embed_dims, backbone.out_dims
    if texts != regions:
        raise ValueError(
            f'The backbone embeds regions in {regions} dimensions, the box '
            f'head and the texts have {texts}: make bbox_head.embed_dims '
            'equal to the out_dims of the backbone.')
    size = extractor.roi_layers[0].output_size[0]
    dense = getattr(getattr(backbone, 'head', None), 'dense', None)
    if dense == 'attn_pool' and size == 1:
        raise ValueError(
            "dense='attn_pool' attends over the crop of a region, but "
            'vlm_roi_extractor cuts a single cell: set output_size=14 and '
            'sampling_ratio=1 in its roi_layer.')
    roi_head.region_embed = backbone.embed_regions
