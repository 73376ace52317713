# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""From a public model to a checkpoint of DITO, and whether they agree."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from dito.models.backbones.embed_head import DENSE_OF_POOL
from dito.models.text.text_tower import resolve_text_arch, text_arch_of
from dito.models.text.tokenizers import cleaning_numbers

from .key_report import KeyReport
from .source import TowerSource
from .vision import convert_open_clip_vision, convert_timm_vision, refuse


@dataclass
class ConvertedTower:
    """Weights, by DITO's names with where they are from, and configs.

    There may be no text tower; for ``meta`` see :meth:`metadata`.
    """

    report: KeyReport
    backbone: dict[str, Any]
    text_encoder: dict[str, Any] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> dict[str, Tensor]:
        """Weights by DITO's names."""
        return self.report.state

    def set_dense(self, dense: str) -> None:
        """Choose how regions are embedded, see :class:`EmbedHead`.

        ValueError if the tower cannot.
        """
        head = dict(self.backbone['head'], dense=dense)
        if dense == 'attn_pool' and head['pool'] != 'attn_pool':
            raise ValueError(
                f'This tower pools by {head["pool"]!r} and has no attention '
                'pooling to embed regions with: take avg or value.'
            )
        self.backbone['head'] = head

    def metadata(self) -> dict[str, Any]:
        """What is written beside the weights.

        ``source``, ``preprocess`` (``mean`` and ``std`` of RGB in [0, 255],
        ``image_size``), ``pool``, ``dense``, ``act``, ``model`` (configs of
        both towers), ``resampled``, ``left_out`` and, where it is not CLIP's,
        ``tokenizer`` (its ``name`` on the hub, and how texts are cleaned).
        """
        head = self.backbone['head']
        model = dict(backbone=self.backbone)
        if self.text_encoder is not None:
            model['text_encoder'] = self.text_encoder
        preprocess = dict(
            self.meta['preprocess'], image_size=self.backbone['img_size']
        )
        return dict(
            self.meta,
            preprocess=preprocess,
            pool=head['pool'],
            dense=head.get('dense', DENSE_OF_POOL[head['pool']]),
            act=self.backbone['act'],
            model=model,
            resampled=self.report.resampled,
            left_out=self.report.left_out,
        )


def convert_tower(source: TowerSource) -> ConvertedTower:
    """Convert a model at its own patch and image size.

    ValueError if a part has no counterpart here, or a weight was not
    understood.
    """
    report = KeyReport(source.state)
    scale = source.preprocess
    meta: dict[str, Any] = dict(
        source=source.meta,
        preprocess=dict(
            mean=[255.0 * x for x in scale['mean']],
            std=[255.0 * x for x in scale['std']],
            interpolation=scale['interpolation'],
            resize_mode=scale['resize_mode'],
        ),
    )
    text = source.config.get('text_cfg', {})
    if text.get('hf_tokenizer_name'):
        meta['tokenizer'] = dict(
            name=text['hf_tokenizer_name'],
            **(text.get('tokenizer_kwargs') or {}),
        )
    if source.library == 'timm':
        for name in ('weight', 'bias'):
            report.leave(
                f'head.{name}', 'the classifier: classes come as texts here'
            )
        tower = ConvertedTower(
            report, convert_timm_vision(source.model, None, report)
        )
    else:
        tower = _convert_pair(source, report)
    report.check()
    tower.meta = meta
    return tower


def _convert_pair(source: TowerSource, report: KeyReport) -> ConvertedTower:
    """Convert an image-text model of open_clip."""
    backbone = _convert_visual(source.model.visual, report)
    prefix = 'text.' if hasattr(source.model, 'text') else ''
    rest = (
        'token_embedding.',
        'positional_embedding',
        'transformer.',
        'ln_final.',
        'text_projection',
    )
    for name in source.state:
        if name.startswith(tuple(prefix + part for part in rest)):
            report.take(name, f'text_encoder.tower.{name[len(prefix) :]}')
    text = source.config.get('text_cfg', {})
    if text.get('hf_tokenizer_name'):
        # Beside the weights, so that it goes with them through all stages.
        report.put(
            'text_encoder.text_cleaning',
            torch.tensor(cleaning_numbers(text.get('tokenizer_kwargs') or {})),
            'tokenizer_kwargs of the config',
        )
    for name in ('logit_scale', 'logit_bias'):
        if name in report:
            report.take(name, name, lambda x: x.reshape(()))
    text_encoder = dict(
        type='DITOTextEncoder',
        arch=resolve_text_arch(text_arch_of(source.config, source.name)),
        embed_dims=source.config['embed_dim'],
        context_length=source.model.context_length,
    )
    return ConvertedTower(report, backbone, text_encoder)


def _convert_visual(visual: nn.Module, report: KeyReport) -> dict[str, Any]:
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
    return convert_timm_vision(visual.trunk, projection, report, prefix, name)


@torch.no_grad()
def feature_error(
    source: TowerSource, tower: ConvertedTower, batch: int = 2
) -> dict[str, float]:
    """Compare embeddings of random images and texts, at the native size.

    The largest difference of a component of the unit embeddings, for 'image'
    and, with a text tower, 'text'. The tower is not resampled yet.
    """
    generator = torch.Generator().manual_seed(0)
    size = tower.backbone['img_size']
    image = torch.randn(batch, 3, size, size, generator=generator)
    backbone = _build(tower.backbone, tower.state, 'backbone.')
    errors = dict(
        image=_error(source_image(source, image), backbone.embed(image))
    )
    del backbone
    if tower.text_encoder is not None:
        tokens = random_tokens(source.model, batch, generator)
        text = _build(tower.text_encoder, tower.state, 'text_encoder.')
        errors['text'] = _error(source.model.encode_text(tokens), text(tokens))
    return errors


def source_image(source: TowerSource, image: Tensor) -> Tensor:
    """The source's own embedding of images (B, 3, H, W), (B, D)."""
    if source.library == 'open_clip':
        return source.model.encode_image(image)
    feat = source.model.forward_features(image)
    return source.model.forward_head(feat, pre_logits=True)


def random_tokens(
    model: nn.Module, batch: int, generator: torch.Generator
) -> Tensor:
    """Texts of random length: start, pieces, end (the largest id), zeros.

    For an open_clip model; int64, (texts, context length).
    """
    length, last = model.context_length, model.vocab_size - 1
    tokens = torch.randint(1, last - 1, (batch, length), generator=generator)
    ends = torch.randint(2, length, (batch,), generator=generator)
    places = torch.arange(length)
    tokens[places > ends[:, None]] = 0
    tokens[:, 0] = last - 1
    tokens[torch.arange(batch), ends] = last
    return tokens


def _build(config: dict, state: dict[str, Tensor], prefix: str) -> nn.Module:
    """Build a tower with its part of the weights."""
    module = MODELS.build(config)
    module.load_state_dict(
        {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    )
    return module.eval()


def _error(first: Tensor, second: Tensor) -> float:
    difference = F.normalize(first, dim=1) - F.normalize(second, dim=1)
    return float(difference.abs().max())
