# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of similarity maps of models."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from quickstart_files import stage_configs, write_quickstart
from torchvision.ops import roi_align

from dito.apis import TextSimilarity
from dito.apis.similarity import input_size

TEXTS = ['a photo of the anchor', 'red umbrella']
IMAGE = np.random.default_rng(0).integers(0, 255, (40, 64, 3), np.uint8)


@pytest.fixture(scope='module')
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict:
    root = tmp_path_factory.mktemp('data')
    (root / 'images').mkdir()
    rep, detector = stage_configs(root)
    return dict(rep=rep, dito=detector)


@pytest.fixture(scope='module')
def models(configs: dict) -> dict:
    init_default_scope('mmdet')
    torch.manual_seed(0)
    built = {k: MODELS.build(cfg.model) for k, cfg in configs.items()}
    for model in built.values():
        model.init_weights()
    return built


def maps_by_hand(model, inputs: torch.Tensor, text: torch.Tensor) -> tuple:
    """One token and one box at a time, boxes written out; the best counts."""
    feat = model.backbone(inputs)[-1]
    level = model.neck((feat,))[2]
    tokens = np.zeros((len(text), 5, 8))
    regions = np.full_like(tokens, -1)
    for y in range(5):
        for x in range(8):
            tokens[:, y, x] = F.cosine_similarity(feat[0, :, y, x][None], text)
            for before, after in ((8, 16), (16, 24), (24, 32)):
                box = [
                    0,
                    max(8 * x - before, 0),
                    max(8 * y - before, 0),
                    min(8 * x + after, 64),
                    min(8 * y + after, 40),
                ]
                pooled = roi_align(
                    level,
                    torch.tensor([box]).float(),
                    7,
                    1 / 8,
                    sampling_ratio=1,
                    aligned=False,
                )
                embed = model.roi_head.bbox_head.embed(pooled)
                regions[:, y, x] = np.maximum(
                    regions[:, y, x], F.cosine_similarity(embed, text)
                )
    return tokens, regions


@pytest.mark.parametrize('stage', ['rep', 'dito'])
@torch.no_grad()
def test_maps_equal_loops_over_tokens_and_boxes(models, stage):
    model = models[stage].eval()
    maps = TextSimilarity(model, 64)(IMAGE, TEXTS)
    pixels = torch.from_numpy(IMAGE).permute(2, 0, 1)[None].float()
    if stage == 'rep':
        inputs = model.data_preprocessor(dict(inputs=pixels))['inputs']
    else:
        # Its statistics, and padding below to a multiple of 64 pixels.
        mean = torch.tensor([123.0, 117.0, 104.0]).view(3, 1, 1)
        std = torch.tensor([68.0, 67.0, 70.0]).view(3, 1, 1)
        preprocessor = model.data_preprocessor
        order = pixels if preprocessor._channel_conversion else pixels.flip(1)
        inputs = F.pad((order - mean) / std, (0, 0, 0, 24))
    text = model.text_encoder.encode(TEXTS)
    tokens, regions = maps_by_hand(model, inputs, text)
    assert maps.backbone.shape == maps.regions.shape == (2, 5, 8)
    np.testing.assert_allclose(maps.backbone, tokens, atol=1e-5)
    np.testing.assert_allclose(maps.regions, regions, atol=1e-5)


@torch.no_grad()
def test_sliding_head_gives_the_class_scores_of_the_roi_head(models):
    model = models['dito'].eval()
    vocabulary = model.build_vocabulary(
        ['anchor', 'red umbrella'], templates='none'
    )
    similarity = TextSimilarity(model, 64, windows=[3])
    maps = similarity(IMAGE, ['anchor', 'red umbrella'])
    inputs, _ = similarity._prepare(IMAGE)
    pyramid, _ = model.extract_maps(inputs)
    # 24 x 24 pixels about cell (row 2, column 4).
    roi = torch.tensor([[0, 24.0, 8.0, 48.0, 32.0]])
    layer = model.roi_head.bbox_roi_extractor.roi_layers[2]
    logits, _ = model.roi_head.bbox_head(layer(pyramid[2], roi))
    cosines = logits[0, : len(vocabulary)] * 0.01
    np.testing.assert_allclose(maps.regions[:, 2, 4], cosines, atol=1e-5)


def test_pictures_are_resized_to_the_input(models):
    similarity = TextSimilarity(models['rep'], 32)
    assert similarity(IMAGE, TEXTS[:1]).backbone.shape == (1, 3, 4)
    tall = np.ascontiguousarray(IMAGE.transpose(1, 0, 2))
    assert similarity(tall, TEXTS[:1]).regions.shape == (1, 4, 3)


@MODELS.register_module(force=True)
class PlainTower(torch.nn.Conv2d):
    """A backbone that says nothing of its patches or embeddings."""

    def forward(self, img: torch.Tensor) -> tuple[torch.Tensor]:
        return (super().forward(img),)


@pytest.mark.parametrize('plain', [False, True])
def test_first_stage_has_no_box_head(configs, plain):
    init_default_scope('mmdet')
    rep = configs['rep'].model
    text_encoder, tower = rep.text_encoder, rep.backbone
    if plain:
        args = dict(in_channels=3, out_channels=text_encoder.embed_dims)
        tower = dict(type='PlainTower', kernel_size=8, stride=8, **args)
    clip = MODELS.build(
        dict(
            type='CLIPPretrainer',
            backbone=tower,
            text_encoder=text_encoder,
        )
    )
    similarity = TextSimilarity(clip, 64)
    maps = similarity(IMAGE, TEXTS)
    assert maps.regions is None and maps.backbone.shape == (2, 5, 8)
    feat = clip.backbone(similarity._prepare(IMAGE)[0])[-1][0, :, 2, 4]
    wanted = F.cosine_similarity(feat[None], clip.text_encoder.encode(TEXTS))
    np.testing.assert_allclose(
        maps.backbone[:, 2, 4], wanted.detach(), atol=1e-5
    )


def test_wrong_use(models):
    similarity = TextSimilarity(models['rep'], 64)
    with pytest.raises(ValueError, match='list of queries'):
        similarity(IMAGE, 'anchor')
    with pytest.raises(ValueError, match='uint8 of shape'):
        similarity(IMAGE / 255, TEXTS)
    with pytest.raises(ValueError, match='at least 1'):
        TextSimilarity(models['rep'], 0)
    for windows in ([], [3, 0]):
        with pytest.raises(ValueError, match='windows one or more'):
            TextSimilarity(models['rep'], 64, windows=windows)
    encoder, models['dito'].text_encoder = models['dito'].text_encoder, None
    try:
        with pytest.raises(ValueError, match='no text tower'):
            TextSimilarity(models['dito'], 64)
    finally:
        models['dito'].text_encoder = encoder


def test_input_size(configs):
    assert input_size(configs['rep']) == 64
    assert input_size(configs['dito']) == 64
    with pytest.raises(ValueError, match='does not say what size'):
        input_size(Config(dict(model=dict())))


def test_files(tmp_path: Path):
    quickstart, _ = write_quickstart(tmp_path)
    rep = quickstart / 'rep'
    similarity = TextSimilarity.from_files(
        rep / 'stage.py', rep / 'iter_40.pth'
    )
    assert (similarity.size, similarity.windows) == (64, (3, 5, 7))
    saved = torch.load(rep / 'iter_40.pth', weights_only=True)['state_dict']
    for key, value in similarity.model.state_dict().items():
        assert torch.equal(value, saved[key]), key
    part = {k: v for k, v in saved.items() if not k.startswith('neck.')}
    torch.save(dict(state_dict=part), tmp_path / 'part.pth')
    with pytest.raises(ValueError, match='part.pth lacks .* neck'):
        TextSimilarity.from_files(rep / 'stage.py', tmp_path / 'part.pth')
    with pytest.raises(FileNotFoundError):
        TextSimilarity.from_files(rep / 'stage.py', tmp_path / 'none.pth')
