# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""From a public model to a checkpoint of DITO."""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from dito.models.backbones.embed_head import DENSE_OF_POOL
from dito.models.text.text_tower import resolve_text_arch, text_arch_of

from .key_report import KeyReport
from .layer_kinds import refuse
from .open_clip_vision import convert_open_clip_vision
from .source import TowerSource
from .timm_vision import convert_timm_vision


@dataclass
class ConvertedTower:
    """Weights and configs of one or two towers.

    Attributes:
        report (KeyReport): Weights by DITO's names, and where they are from.
        backbone (dict): Config of the image tower.
        text_encoder (dict, optional): Config of the text tower. None where
            the source has none.
        meta (dict): Metadata of the checkpoint; see :meth:`metadata`.
    """

    report: KeyReport
    backbone: Dict[str, Any]
    text_encoder: Optional[Dict[str, Any]] = None
    meta: Dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> Dict[str, Tensor]:
        """Weights by DITO's names."""
        return self.report.state

    def set_dense(self, dense: str) -> None:
        """Choose how regions are embedded.

        Args:
            dense (str): See :class:`EmbedHead`.

        Raises:
            ValueError: If the tower cannot.
        """
        head = dict(self.backbone['head'], dense=dense)
        if dense == 'attn_pool' and head['pool'] != 'attn_pool':
            raise ValueError(
                f'This tower pools by {head["pool"]!r} and has no attention '
                'pooling to embed regions with: take avg or value.')
        self.backbone['head'] = head

    def metadata(self) -> Dict[str, Any]:
        """What is written beside the weights.

        Returns:
            dict: ``source``, ``preprocess`` (``mean`` and ``std`` of RGB in
            [0, 255], ``image_size``), ``pool``, ``dense``, ``act``,
            ``model`` (configs of both towers), ``resampled``,
            ``left_out`` and, where it is not CLIP's, ``tokenizer`` (its
            ``name`` on the hub, and how texts are cleaned).
        """
        head = self.backbone['head']
        model = dict(backbone=self.backbone)
        if self.text_encoder is not None:
            model['text_encoder'] = self.text_encoder
        preprocess = dict(
            self.meta['preprocess'], image_size=self.backbone['img_size'])
        return dict(
            self.meta,
            preprocess=preprocess,
            pool=head['pool'],
            dense=head.get('dense', DENSE_OF_POOL[head['pool']]),
            act=self.backbone['act'],
            model=model,
            resampled=self.report.resampled,
            left_out=self.report.left_out)


def convert_tower(source: TowerSource) -> ConvertedTower:
    """Convert a model at its own patch and image size.

    Args:
        source (TowerSource): The model.

    Returns:
        ConvertedTower: Its towers as DITO's.

    Raises:
        ValueError: If a part of the model has no counterpart here, or a
            weight was not understood.
    """
    report = KeyReport(source.state)
    scale = source.preprocess
    meta: Dict[str, Any] = dict(
        source=source.meta,
        preprocess=dict(
            mean=[255.0 * x for x in scale['mean']],
            std=[255.0 * x for x in scale['std']],
            interpolation=scale['interpolation'],
            resize_mode=scale['resize_mode']))
    text = source.config.get('text_cfg', {})
    if text.get('hf_tokenizer_name'):
        meta['tokenizer'] = dict(
            name=text['hf_tokenizer_name'],
            **(text.get('tokenizer_kwargs') or {}))
    if source.library == 'timm':
        for name in ('weight', 'bias'):
            report.leave(
                f'head.{name}', 'the classifier: classes come as texts here')
        tower = ConvertedTower(
            report, convert_timm_vision(source.model, None, report))
    else:
        tower = _convert_pair(source, report)
    report.check()
    tower.meta = meta
    return tower


def _convert_pair(source: TowerSource,
                  report: KeyReport) -> ConvertedTower:
    """Convert an image-text model of open_clip."""
    backbone = _convert_visual(source.model.visual, report)
    prefix = 'text.' if hasattr(source.model, 'text') else ''
    rest = ('token_embedding.', 'positional_embedding', 'transformer.',
            'ln_final.', 'text_projection')
    for name in source.state:
        if name.startswith(tuple(prefix + part for part in rest)):
            report.take(name, f'text_encoder.tower.{name[len(prefix):]}')
    for name in ('logit_scale', 'logit_bias'):
        if name in report:
            report.take(name, name, lambda x: x.reshape(()))
    text_encoder = dict(
        type='DITOTextEncoder',
        arch=resolve_text_arch(text_arch_of(source.config, source.name)),
        embed_dims=source.config['embed_dim'],
        context_length=source.model.context_length)
    return ConvertedTower(report, backbone, text_encoder)


def _convert_visual(visual: nn.Module, report: KeyReport) -> Dict[str, Any]:
    """Convert the image tower of an open_clip model, by its class."""
    if isinstance(visual, VisionTransformer):
        return convert_open_clip_vision(visual, report)
    if not isinstance(visual, TimmModel):
        refuse(f'a body of the class {type(visual).__name__}')
    prefix = 'visual.trunk.'
    if isinstance(visual.trunk.get_classifier(), nn.Linear):
        projection, name = visual.trunk.head, f'{prefix}head'
    elif set(dict(visual.head.named_children())) <= {'drop', 'proj'}:
        projection = getattr(visual.head, 'proj', None)
        name = 'visual.head.proj'
    else:
        refuse('an MLP as projection')
    return convert_timm_vision(
        visual.trunk, projection, report, prefix, name)
