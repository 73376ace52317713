# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Sentences of the paper's sections 3.1 to 4 as values of the ViT-L config.

What is not here is tested where it is made: equation 2 in test_score_ops,
Algorithm 1 in test_window_ops, schedules in test_configs and
test_pretrain_configs, jitter in test_dataset_configs.
"""

import inspect
import math
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tiny_detector import TEXT_ENCODER, batch, build

from dito.models.roi_heads.geometric_ensemble import cosine_logits
from dito.models.text import Vocabulary
from dito.models.text.name_checks import resolve_templates

ROOT = Path(__file__).parents[1] / 'configs'


@pytest.fixture(scope='module')
def cfg():
    config = Config.fromfile(ROOT / 'dito_vitl_lvis.py')
    init_default_scope(config.default_scope)
    return config


@pytest.fixture(scope='module')
def model(cfg):
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def test_background_word_and_templates(cfg):
    """3.1: the word "background"; 4: the average over CLIP's templates."""
    options = inspect.signature(Vocabulary.from_names).parameters
    assert options['background'].default == 'background'
    hook = cfg.custom_hooks[0]
    assert hook.type == 'DITOVocabularyHook' and hook.templates == 'openai'
    assert len(resolve_templates('openai')) == 80


def test_templates_are_averaged_as_unit_vectors():
    """The mean of unit vectors, brought to unit length again."""
    model = build(mask=False, text_encoder=TEXT_ENCODER)
    templates = ['a {}', 'a photo of a {}', '{} {}']
    vocabulary = model.build_vocabulary(['cat', 'dog'], templates=templates)
    tower = model.text_encoder
    for name, found in zip(
        ('cat', 'dog', 'background'),
        [*vocabulary.embeddings, vocabulary.background],
        strict=True,
    ):
        each = tower.encode([t.replace('{}', name) for t in templates])
        mean = each.mean(dim=0)
        torch.testing.assert_close(found, mean / mean.norm())


def test_temperature(model):
    """Cosines over 0.01, the detector's times a learnt scalar from 1."""
    head = model.roi_head
    assert head.vlm_temperature == head.bbox_head.temperature == 0.01
    logits = cosine_logits(torch.tensor([[3.0, 4.0]]), torch.eye(2), 0.01)
    torch.testing.assert_close(logits, torch.tensor([[60.0, 80.0]]))


def test_softmax_over_base_classes_in_training_over_all_in_tests():
    """3.1: C_B and background in training, C_B, C_N and it in tests."""
    model = build(mask=False, text_encoder=TEXT_ENCODER)
    model.init_weights()
    seen = []
    real = model.roi_head.bbox_head.classify
    model.roi_head.bbox_head.classify = lambda *x: (
        seen.append(real(*x)) or seen[-1]
    )
    model.build_vocabulary(['cat', 'dog'], templates='none')
    data = model.data_preprocessor(
        batch((2, 1), num_classes=2, mask=False), True
    )
    model(**data, mode='loss')
    model.build_vocabulary(
        ['cat', 'dog', 'bird'], novel=['bird'], templates='none'
    )
    with torch.no_grad():
        model.eval().test_step(batch((2, 1), mask=False))
    assert [x.shape[1] for x in seen] == [3, 4, 4]


def test_unmatched_proposals_are_background(cfg):
    """3.1: what matches no base box is background."""
    assigner = cfg.model.train_cfg.rcnn.assigner
    assert assigner.pos_iou_thr == assigner.neg_iou_thr == 0.5


def test_shifted_windows(model, cfg):
    """3.3: M = 1024 / 16 / 4 = 16, s = M // 2, masked, both ways positive."""
    plan = model.backbone.plan
    assert cfg.model.data_preprocessor.pad_size_divisor == 1024
    assert plan.spec((64, 64), shifted=False).window == (16, 16)
    shifted = plan.spec((64, 64), shifted=True)
    assert shifted.shift == (8, 8) and shifted.mask
    assert plan.global_layers == {5, 11, 17, 23}
    assert not model.backbone.pos_embed_after_shift


def test_windows_are_shifted_in_inference_too():
    model = build(mask=False).eval()
    assert model.backbone.plan.shift == 'swl'
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        trained = model.train().backbone(image)[0]
        tested = model.eval().backbone(image)[0]
        model.backbone.plan.shift = None
        assert not torch.allclose(model.backbone(image)[0], tested)
    torch.testing.assert_close(trained, tested)


def test_distillation(model, cfg):
    """3.4: cosine distance, gamma 1, a 1x1 projection.

    The teacher has the trained backbone's windows and shift (3.3: "in
    detection finetuning and inference times") and the projection starts as
    the identity, so that z starts as the teacher's.
    """
    head = model.roi_head
    assert type(head.loss_distill).__name__ == 'DITOCosineDistillLoss'
    assert head.loss_distill.loss_weight == 1
    assert head.vlm_proj.kernel_size == (1, 1)
    assert head.vlm_proj.weight.shape[:2] == (1024, 1024)
    teacher = model._teacher.cfg
    assert teacher['shift'] == 'swl' and teacher['window'] == dict(grid=4)
    assert cfg.model.teacher.checkpoint == cfg.load_from


def test_distillation_is_the_mean_over_sampled_rois():
    """3.4: the cosine distance of each RoI, averaged over all RoIs."""
    loss = MODELS.build(dict(type='DITOCosineDistillLoss', loss_weight=1.0))
    student, teacher = torch.randn(5, 8), torch.randn(5, 8)
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        cosine = float(s @ t) / math.sqrt(float(s @ s) * float(t @ t))
        expected += (1 - cosine) / 5
    assert loss(student, teacher).item() == pytest.approx(expected, abs=1e-6)


def test_vlm_score_is_that_of_the_last_map(cfg):
    """3.1: RoI-Align at the last ViT map, at the stride of its patches."""
    extractor = cfg.model.roi_head.vlm_roi_extractor
    assert extractor.featmap_strides == [cfg.model.backbone.patch_size]
    ensemble = cfg.model.roi_head.ensemble
    assert ensemble.get('vlm_background', False) is False
    assert cfg.model.roi_head.get('vlm_roi_scale', 1) == 1


def test_detection_finetuning(cfg):
    """4: SGD, momentum 0.9, 0.6 times the rate in the backbone, batch 128."""
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert keys.backbone.lr_mult == 0.6
    # 3.4 adds the projection to the backbone.
    assert keys.vlm_proj == keys.backbone
    resize = cfg.train_dataloader.dataset.pipeline[2]
    assert resize.ratio_range == (0.1, 2.0)
    assert cfg.train_dataloader.dataset.split == 'base'
    assert cfg.val_dataloader.dataset.split == 'all'
