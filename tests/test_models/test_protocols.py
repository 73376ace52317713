# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Parts that lack something are refused when a model is built."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.registry import init_default_scope
from tiny_detector import DIMS, tiny_config
from torch import Tensor, nn

from dito.models import BaseTextEncoder, DITOTextEncoder, Vocabulary
from dito.models.protocols import (
    EmbeddingTower,
    Ensemble,
    ImageTower,
    PositionedTower,
    TextTower,
    VocabularySource,
    lacking,
)

sys.path.insert(0, str(Path(__file__).parent / 'test_pretrainers'))
from pretrainer_models import (  # noqa: E402
    clip_cfg,
    make_batch,
    pyramid_cfg,
    rep_cfg,
)


@MODELS.register_module(force=True)
class MeanTower(nn.Module):
    """The least a backbone can be."""

    def __init__(self, dims: int = DIMS) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, dims, 8, 8)

    def forward(self, img: Tensor) -> tuple[Tensor, ...]:
        return (self.conv(img),)


@MODELS.register_module(force=True)
class BareTower(MeanTower):
    """Forgets that towers give several maps."""

    def forward(self, img: Tensor) -> Tensor:
        return self.conv(img)


@MODELS.register_module(force=True)
class UnwrittenTower(nn.Module):
    """No forward of its own."""


@MODELS.register_module(force=True)
class HalfTower(MeanTower):
    """Embeds images in a way of its own, and regions not."""

    def embed(self, img: Tensor) -> Tensor:
        return self(img)[0].amax(dim=(2, 3))


@MODELS.register_module(force=True)
class MaxTower(HalfTower):
    """Embeds both by the maximum, in twice as many dimensions."""

    out_dims = 2 * DIMS

    def embed(self, img: Tensor) -> Tensor:
        return super().embed(img).repeat(1, 2)

    def embed_regions(self, crops: Tensor) -> Tensor:
        return crops.amax(dim=(2, 3)).repeat(1, 2)


@MODELS.register_module(force=True)
class NoText:
    """Not a module."""


@MODELS.register_module(force=True)
class PartOfText(nn.Module):
    """Embeds tokens that nobody makes."""

    embed_dims = DIMS

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.float()


@MODELS.register_module(force=True)
class Letters(BaseTextEncoder):
    """A text tower without options; no argument ``freeze``."""

    def __init__(self, embed_dims: int = DIMS) -> None:
        super().__init__(embed_dims)
        self.letters = nn.Embedding(128, embed_dims)
        self.drop = nn.Dropout(0.5)

    def tokenize(self, texts: list[str]) -> Tensor:
        return torch.tensor([list(t.ljust(40)[:40].encode()) for t in texts])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.drop(self.letters(tokens)).mean(dim=1)


STAGES = dict(
    clip=clip_cfg,
    rep=rep_cfg,
    pyramid=pyramid_cfg,
    dito=lambda: tiny_config(text_encoder=dict(type='Letters')),
)


def build(stage: str, **parts: dict) -> Any:
    init_default_scope('mmdet')
    return MODELS.build(dict(STAGES[stage](), **parts))


def test_our_own_parts_keep_the_contracts() -> None:
    clip = build('clip')
    for contract in (ImageTower, EmbeddingTower, PositionedTower):
        assert lacking(clip.backbone, contract) == ()
    assert lacking(clip.text_encoder, TextTower) == ()
    detector = build('dito')
    assert lacking(detector.roi_head.ensemble, Ensemble) == ()
    assert lacking(MeanTower(), EmbeddingTower) == (
        'out_dims',
        'embed',
        'embed_regions',
    )


@pytest.mark.parametrize('stage', STAGES)
@pytest.mark.parametrize(
    'name, said',
    [
        (
            'UnwrittenTower',
            'UnwrittenTower cannot be the backbone: it lacks '
            'forward of ImageTower, see docs/extending.md.',
        ),
        ('HalfTower', 'it lacks out_dims and embed_regions of EmbeddingTower'),
        ('NoText', 'NoText cannot be the backbone: it is no torch.nn.Module.'),
    ],
)
def test_backbones_that_lack_something(
    stage: str, name: str, said: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(said)):
        build(stage, backbone=dict(type=name))


@pytest.mark.parametrize('stage', STAGES)
def test_text_towers_that_lack_something(stage: str) -> None:
    said = 'PartOfText cannot be the text_encoder: it lacks encode and '
    said += (
        'fingerprint of VocabularySource'
        if stage == 'dito'
        else 'fingerprint and tokenize of TextTower'
    )
    with pytest.raises(TypeError, match=said):
        build(stage, text_encoder=dict(type='PartOfText'))


def test_a_source_of_names_that_lacks_something() -> None:
    with pytest.raises(
        TypeError, match='lacks encode and fingerprint of VocabularySource'
    ):
        Vocabulary.from_names(['cat'], PartOfText())
    assert lacking(Letters(), VocabularySource) == ()


def test_what_is_no_ensemble() -> None:
    TASK_UTILS.register_module(name='NoEnsemble', module=NoText, force=True)
    with pytest.raises(
        TypeError,
        match='cannot be the roi_head.ensemble: it lacks __call__ of Ensemble',
    ):
        build(
            'dito',
            roi_head=dict(
                tiny_config().roi_head, ensemble=dict(type='NoEnsemble')
            ),
        )


@pytest.mark.parametrize('stage', STAGES)
def test_a_tower_that_gives_no_tuple(stage: str) -> None:
    model = build(stage, backbone=dict(type='BareTower'))
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(
        TypeError,
        match=r'BareTower must return a tuple of '
        r'maps.* got \(2, 16, 8, 8\): return \(map, \)',
    ):
        if stage == 'dito':
            model.extract_maps(images)
        else:
            model.image_embedding(images)


def test_stage_1_pools_by_the_mean_unless_told_otherwise() -> None:
    images = torch.randn(2, 3, 32, 32)
    model = build('clip', backbone=dict(type='MeanTower'))
    torch.testing.assert_close(
        model.image_embedding(images),
        model.backbone(images)[0].mean(dim=(2, 3)),
    )
    model = build('clip', backbone=dict(type='MaxTower'))
    torch.testing.assert_close(
        model.image_embedding(images), model.backbone.embed(images)
    )


@pytest.mark.parametrize(
    'name, options, said',
    [
        (
            'MeanTower',
            dict(cpe=dict()),
            'MeanTower cannot be the backbone with '
            'cpe: it lacks patch_size and pos_embed and pos_size of '
            'PositionedTower',
        ),
        (
            'MeanTower',
            dict(mosaic=dict()),
            'mosaic needs a backbone with '
            'patch_size, which MeanTower does not have',
        ),
        (
            'MeanTower',
            dict(mosaic=dict(global_prob=0.5)),
            'patch_size and global_attention',
        ),
        ('MaxTower', dict(mosaic=dict()), 'pools by .a way of its own.'),
    ],
)
def test_options_of_stage_1_that_need_more(
    name: str, options: dict, said: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        build('clip', backbone=dict(type=name), **options)


def test_a_mosaic_of_a_tower_that_pools_by_the_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MeanTower, 'patch_size', 8, raising=False)
    model = build(
        'clip', backbone=dict(type='MeanTower'), mosaic=dict(grid=2)
    ).train()
    assert torch.isfinite(
        model.train()(**model.data_preprocessor(make_batch()), mode='loss')[
            'loss_image'
        ]
    )


def test_regions_of_another_size_than_texts() -> None:
    with pytest.raises(ValueError, match='embeds regions in 32 dimensions'):
        build('dito', backbone=dict(type='MaxTower'))


def test_the_detector_freezes_any_text_tower() -> None:
    model = build('dito').train()
    tower = model.text_encoder
    assert model.training and not tower.training and not tower.drop.training
    assert not any(p.requires_grad for p in tower.parameters())
    own = build(
        'dito',
        text_encoder=dict(
            type='DITOTextEncoder',
            embed_dims=DIMS,
            context_length=8,
            arch=dict(width=16, layers=1, heads=2),
            token_ids=DITOTextEncoder.collect_token_ids(['cat']),
        ),
    ).train()
    assert not own.text_encoder.training
    assert not any(p.requires_grad for p in own.text_encoder.parameters())
