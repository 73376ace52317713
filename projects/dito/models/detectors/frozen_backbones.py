# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Frozen backbones: the teacher, and what gives the VLM score."""

from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, OptConfigType
from mmengine.logging import print_log
from torch import Tensor, nn

from dito.utils.checkpoint import load_state_dict_file

from ..backbones import EmbedHead
from ..protocols import EmbeddingTower, lacking


def _read_backbone(checkpoint: str, prefix: str) -> dict[str, Tensor]:
    """Weights of a pretrained backbone, by keys without the prefix."""
    state = {
        key[len(prefix) :]: value
        for key, value in load_state_dict_file(checkpoint).items()
        if key.startswith(prefix)
    }
    if not state:
        raise ValueError(
            f'The checkpoint {checkpoint} of the frozen backbone has no key '
            f'that starts with {prefix!r}; give the checkpoint of the '
            'pretraining, or the prefix of its backbone.'
        )
    return state


class FrozenTeacher:
    """Frozen copy of the pretrained backbone, for distillation (paper 3.4).

    It is not a :class:`torch.nn.Module`, so that neither state dict,
    optimizer, ``train()`` nor DistributedDataParallel of the detector see
    it. Its weights are read when training starts; inference needs neither
    its file nor its memory.

    Args:
        backbone (dict): Config of the backbone.
        checkpoint (str): File with the pretrained weights.
        prefix (str): Prefix of the backbone's keys in it. Defaults to
            'backbone.'.
    """

    def __init__(
        self, backbone: ConfigType, checkpoint: str, prefix: str = 'backbone.'
    ) -> None:
        self.cfg = backbone
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.backbone: nn.Module | None = None

    def __deepcopy__(self, memo: dict) -> 'FrozenTeacher':
        """Copies of a detector (EMA) share the teacher: it never changes."""
        return self

    def build(self, device: torch.device) -> None:
        """Build the backbone and load its weights, unless already done.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ValueError: If it does not hold exactly this backbone.
        """
        if self.backbone is not None:
            return
        state = _read_backbone(self.checkpoint, self.prefix)
        backbone = MODELS.build(self.cfg)
        try:
            backbone.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f'The teacher checkpoint {self.checkpoint} does not fit the '
                f'backbone of the detector: {error}'
            ) from error
        backbone.requires_grad_(False)
        self.backbone = backbone.eval().to(device)
        print_log(
            f'Frozen teacher loaded from {self.checkpoint}.', logger='current'
        )

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow ``.to()`` and the like of the detector."""
        if self.backbone is not None:
            self.backbone._apply(fn)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Any:
        """Final map (B, D, h, w) of the student's images, without gradient."""
        self.build(inputs.device)
        return self.backbone(inputs)[-1]

    @property
    def embed_regions(self) -> Callable[[Tensor], Tensor] | None:
        """How the frozen backbone embeds RoI features; None: their mean."""
        return getattr(self.backbone, 'embed_regions', None)


class VLMBackboneMixin:
    """Keeps the pretrained backbone beside the trained one (release).

    The detector's own backbone gives boxes and the score ``p``; the frozen
    one, run at inference only, gives the map of the score ``z``. It is part
    of the model: its weights are in the state dict under ``vlm_backbone.``,
    it is always in evaluation mode and takes no gradient. A checkpoint that
    has none of these keys can be completed from a second file, the
    pretrained one, see :meth:`build_vlm_backbone`.
    """

    vlm_backbone: nn.Module | None
    _vlm_file: dict[str, str] | None

    def build_vlm_backbone(
        self, backbone: ConfigType, cfg: OptConfigType
    ) -> None:
        """Build the frozen backbone, of what differs from ``backbone``.

        Nothing is reset by itself, the shift neither. ``checkpoint`` is a file
        of its weights, for trainings and for checkpoints that lack them, not
        looked at where a checkpoint has them; ``prefix`` is that of the
        backbone's keys in it, 'backbone.' by default. None: no frozen
        backbone.
        """
        self.vlm_backbone = self._vlm_file = None
        if cfg is None:
            return
        cfg = dict(cfg)
        source = dict(
            checkpoint=cfg.pop('checkpoint', None),
            prefix=cfg.pop('prefix', 'backbone.'),
        )
        if source['checkpoint'] is not None:
            self._vlm_file = source
        self.vlm_backbone = MODELS.build({**backbone, **cfg})
        self.vlm_backbone.requires_grad_(False).eval()
        self._register_load_state_dict_pre_hook(
            lambda state, prefix, *_: self.adapt_state_dict(state, prefix)
        )

    def adapt_state_dict(
        self, state: MutableMapping[str, Tensor], prefix: str = ''
    ) -> None:
        """Complete weights that lack the frozen backbone, in place.

        Raises:
            FileNotFoundError: If the file of the frozen weights is missing.
            ValueError: If it does not hold a backbone.
        """
        start = f'{prefix}vlm_backbone.'
        if self._vlm_file is None or any(k.startswith(start) for k in state):
            return
        for key, value in _read_backbone(**self._vlm_file).items():
            state[start + key] = value

    def init_weights(self) -> None:
        """Initialise for training; reads the frozen weights' file."""
        super().init_weights()
        if self._vlm_file is not None:
            try:
                self.vlm_backbone.load_state_dict(
                    _read_backbone(**self._vlm_file)
                )
            except RuntimeError as error:
                raise ValueError(
                    f'The file of vlm_backbone '
                    f'{self._vlm_file["checkpoint"]} does not fit it: '
                    f'{error}'
                ) from error

    def train(self, mode: bool = True) -> 'VLMBackboneMixin':
        """Set the mode; the frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.vlm_backbone is not None:
            self.vlm_backbone.eval()
        return self

    @torch.no_grad()
    def vlm_map(self, batch_inputs: Tensor, feat: Tensor) -> Tensor:
        """Map of the VLM score: the frozen backbone's, else ``feat``."""
        if self.vlm_backbone is None:
            return feat
        return self.vlm_backbone(batch_inputs)[-1]


def connect_regions(detector: nn.Module) -> None:
    """Let the RoI head embed regions as the backbone does.

    The backbone that gives the VLM score, frozen or trained, also says how
    regions of its map become embeddings. What follows its pooling stays as
    pretrained: texts are frozen, and without distillation nothing would train
    it. ValueError if embeddings of regions and texts, or regions and the RoI
    extractor do not fit.
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
            'equal to the out_dims of the backbone.'
        )
    size = extractor.roi_layers[0].output_size[0]
    dense = getattr(getattr(backbone, 'head', None), 'dense', None)
    if dense == 'attn_pool' and size == 1:
        raise ValueError(
            "dense='attn_pool' attends over the crop of a region, but "
            'vlm_roi_extractor cuts a single cell: set output_size=14 and '
            'sampling_ratio=1 in its roi_layer.'
        )
    roi_head.region_embed = backbone.embed_regions
