# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Every config is read and its model built; small models are run too."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import (
    DATASETS,
    HOOKS,
    METRICS,
    MODELS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
)
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from dito.engine.loops.whole_batch import plan_of_config
from dito.models import Vocabulary
from dito.utils.official import OfficialSizes

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(
    str(p.relative_to(ROOT))
    for p in ROOT.rglob('*.py')
    if not {'_base_', 'assets'} & set(p.parts)
)
SMALL = [c for c in CONFIGS if 'symbols' in c]
PAPER = [
    'dito_vits_lvis.py',
    'dito_vitb_lvis.py',
    'dito_vitl_lvis.py',
    'dito_vits_coco.py',
    'dito_vitb_coco.py',
    'dito_vitl_coco.py',
]


def read(name):
    cfg = Config.fromfile(ROOT / name)
    init_default_scope(cfg.default_scope)
    tower = cfg.model.get('text_encoder') or {}
    if isinstance(tower.get('token_ids'), dict):
        # They come from a file of the data set, which is not here.
        tower.token_ids = 100
    return cfg


def build_meta(cfg):
    """Build without memory for the weights."""
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def pipelines(cfg):
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = (cfg.get(key) or {}).get('dataset')
        while dataset is not None:
            yield dataset.type, dataset.get('pipeline', [])
            dataset = dataset.get('dataset')


def test_there_are_configs():
    assert set(PAPER) <= set(CONFIGS) and len(CONFIGS) > len(PAPER)


@pytest.mark.parametrize('name', CONFIGS)
def test_config_is_complete(name):
    cfg = read(name)
    for kind, pipeline in pipelines(cfg):
        assert DATASETS.get(kind) is not None, kind
        for transform in pipeline:
            assert TRANSFORMS.get(transform.type) is not None, transform
    for key in ('val_evaluator', 'test_evaluator'):
        metrics = cfg.get(key) or []
        for metric in metrics if isinstance(metrics, list) else [metrics]:
            assert METRICS.get(metric.type) is not None, metric
    for hook in [*cfg.get('custom_hooks', []), *cfg.default_hooks.values()]:
        assert HOOKS.get(hook.type) is not None, hook


@pytest.mark.parametrize('name', CONFIGS)
def test_model_and_optimizer_can_be_built(name):
    cfg = read(name)
    model = build_meta(cfg)
    assert sum(p.numel() for p in model.parameters()) > 0
    if 'optim_wrapper' in cfg:
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        held = {id(p) for g in wrapper.param_groups for p in g['params']}
        assert {id(p) for p in model.parameters() if p.requires_grad} <= held


@pytest.mark.parametrize('name', PAPER)
def test_optimizer_of_the_paper(name):
    cfg = read(name)
    model = build_meta(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    base = 0.02 if 'coco' in name else 0.18
    names = {id(p): n for n, p in model.named_parameters()}
    for group in wrapper.param_groups:
        assert group['momentum'] == 0.9
        for param in group['params']:
            if not param.requires_grad:
                continue
            key = names[id(param)]
            # 3.4 adds the projection to the backbone.
            backbone = key.startswith(('backbone.', 'roi_head.vlm_proj.'))
            kernel = key.endswith('.weight') and param.ndim > 1
            assert group['lr'] == pytest.approx(
                base * 0.6 if backbone else base
            ), key
            assert group['weight_decay'] == (
                1e-4 if kernel and not backbone else 0
            ), key


@pytest.mark.parametrize('name', PAPER)
def test_schedule_of_the_paper(name):
    cfg = read(name)
    iters = 11300 if 'coco' in name else 36800
    warmup, steps = cfg.param_scheduler
    assert cfg.train_cfg.max_iters == steps.end == iters
    assert cfg.optim_wrapper.optimizer.lr * warmup.start_factor == (
        pytest.approx(0.0032)
    )
    assert steps.milestones == [int(iters * f / 100) for f in (80, 90, 95)]
    header = (ROOT / name).read_text()
    assert '# A step has the 128 images of the schedule' in header
    assert f'takes {cfg.train_dataloader.batch_size} at a time' in header
    assert cfg.train_cfg.total_batch_size == 128


@pytest.mark.parametrize('name', CONFIGS)
def test_batch_comes_out(name, monkeypatch):
    """On any usual number of GPUs, where the batch is not an odd one."""
    cfg = Config.fromfile(ROOT / name)
    if cfg.get('train_dataloader') is None or 'optim_wrapper' not in cfg:
        return
    total = cfg.train_cfg.total_batch_size
    assert (
        cfg.get('auto_scale_lr', dict(base_batch_size=total))[
            'base_batch_size'
        ]
        == total
    )
    numbers = [n for n in (1, 2, 4, 8, 16, 32, 64) if total % n == 0]
    if '_own_' in name or 'cc3m' in name:  # for one GPU
        assert total in (16, 512) and numbers[-1] >= 16
    elif 'symbols' not in name:
        assert total in (128, 4096, 16384) and numbers[-1] == 64
    for number in numbers:
        monkeypatch.setenv('WORLD_SIZE', str(number))
        plan = plan_of_config(cfg, 'pytorch')
        assert plan.processes == number
        assert number * plan.share == total
        assert plan.images * plan.pieces == plan.share
        assert plan.images <= cfg.train_dataloader.batch_size
    monkeypatch.setenv('WORLD_SIZE', '7')
    with pytest.raises(ValueError, match=f'batch of {total} images'):
        plan_of_config(cfg, 'pytorch')


@pytest.mark.parametrize('name', ['dito_vitl_lvis.py', 'dito_vitl_coco.py'])
def test_learning_rate_of_every_step(name):
    cfg = read(name)
    iters, base = (11300, 0.02) if 'coco' in name else (36800, 0.18)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=base)
    schedulers = [
        PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optimizer))
        for s in cfg.param_scheduler
    ]
    for step in range(iters):
        # Linear from 0.0032 over 1,000 steps, x 0.1 at 80, 90 and 95 percent.
        expected = base * 0.1 ** sum(
            step >= iters * percent // 100 for percent in (80, 90, 95)
        )
        if step < 999:
            expected = 0.0032 + (base - 0.0032) * step / 999
        got = optimizer.param_groups[0]['lr']
        assert abs(got - expected) < 1e-6 * base, step
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def rule(assigner):
    """Thresholds of a match, and whether the best anchor is forced."""
    return (
        assigner.pos_iou_thr,
        assigner.neg_iou_thr,
        assigner.match_low_quality,
    )


@pytest.mark.parametrize('name', PAPER)
def test_constants_of_the_release_in_training(name):
    cfg = read(name)
    model = build_meta(cfg)
    rpn, roi = model.rpn_head, model.roi_head
    anchors = cfg.model.rpn_head.anchor_generator
    assert anchors.strides == [4, 8, 16, 32]
    assert (anchors.scales, anchors.ratios) == ([8], [1.0])
    assert anchors.center_offset == 0.5
    assert rule(rpn.assigner) == (0.3, 0.1, True)
    assert rule(rpn.bbox_assigner) == (0.7, 0.3, True)
    assert not rpn.assigner.gt_max_assign_all
    assert not rpn.bbox_assigner.gt_max_assign_all
    assert (rpn.sampler.num, rpn.sampler.pos_fraction) == (256, 255 / 256)
    assert (rpn.loss_center.loss_weight, rpn.loss_bbox.loss_weight) == (1, 8)
    proposals = model.train_cfg.rpn_proposal
    assert (proposals.nms_pre, proposals.max_per_img) == (2000, 1000)
    assert proposals.nms.iou_threshold == 0.7
    assert rule(roi.bbox_assigner) == (0.5, 0.5, False)
    sampler = roi.bbox_sampler
    assert (sampler.num, sampler.pos_fraction) == (512, 0.25)
    assert sampler.add_gt_as_proposals
    assert roi.bbox_head.background_weight == 0.9
    assert roi.bbox_head.temperature == roi.vlm_temperature == 0.01
    # 224 pixels are level 4, the third of the pyramid.
    extractors = [roi.bbox_roi_extractor]
    extractors += [roi.mask_roi_extractor] if roi.with_mask else []
    for extractor in extractors:
        boxes = torch.tensor(
            [[0.0, 0, 0, s, s] for s in (111, 112, 223, 224, 447, 448)]
        )
        assert extractor.map_roi_levels(boxes, 4).tolist() == [
            0,
            1,
            1,
            2,
            2,
            3,
        ]
        assert extractor.featmap_strides == [4, 8, 16, 32]
    sizes = [e.roi_layers[0].output_size[0] for e in extractors]
    assert sizes == [7, 14][: len(sizes)]
    rpn, rcnn = model.test_cfg.rpn, model.test_cfg.rcnn
    assert (rpn.nms_pre, rpn.max_per_img, rpn.nms) == (2000, 1000, None)
    assert (rcnn.nms.iou_threshold, rcnn.score_thr) == (0.5, 0)
    assert rcnn.max_per_img == 300 or 'coco' in name


@pytest.mark.parametrize('name', PAPER)
def test_numbers_of_the_paper(name):
    cfg = read(name)
    model = build_meta(cfg)
    roi, backbone = model.roi_head, cfg.model.backbone
    assert roi.ensemble.facts() == dict(
        alpha=0.3,
        beta=0.65,
        renormalise=False,
        vlm_background=False,
        objectness_power=3,
    )
    assert backbone.window == dict(grid=4) and backbone.shift == 'swl'
    assert backbone.global_layers == 4
    assert roi.loss_distill.loss_weight == 1
    assert roi.bbox_head.embed_dims == model.backbone.embed_dims
    assert roi.with_mask == ('lvis' in name)
    assert model.data_preprocessor.pad_size_divisor == 1024
    # The teacher is the backbone training starts from.
    assert cfg.model.teacher.checkpoint == cfg.load_from


def test_numbers_of_the_release():
    cfg = read('dito_vitl_official_lvis.py')
    model = build_meta(cfg)
    roi = model.roi_head
    assert roi.ensemble.facts() == dict(
        alpha=0.35,
        beta=0.65,
        renormalise=True,
        vlm_background=True,
        objectness_power=3,
    )
    assert roi.vlm_roi_scale == 0.7
    assert roi.loss_distill is None and model.text_encoder is None
    assert model.backbone.plan.global_layers == {5, 11, 17, 23}
    assert model.vlm_backbone.plan.global_layers == {23}
    # The shift reaches the frozen backbone too.
    for tower in (model.backbone, model.vlm_backbone):
        assert (tower.plan.shift, tower.plan.shift_size) == ('swl', 8)
        assert not tower.plan.shift_mask and tower.pos_embed_after_shift
    rpn, rcnn = cfg.model.test_cfg.rpn, cfg.model.test_cfg.rcnn
    assert rpn.nms is None and rpn.max_per_img == 1000
    assert rcnn.max_per_img == 300 and rcnn.score_thr == 0
    pre = cfg.model.data_preprocessor
    assert (pre.mean, pre.std, pre.bgr_to_rgb) == ([0] * 3, [255] * 3, True)
    # All of the release's numbers have a place, and there are no others.
    shapes = OfficialSizes().detector().values()
    assert sum(np.prod(shape) for shape in shapes) == sum(
        value.numel() for value in model.state_dict().values()
    )
    # Evaluated, not trained.
    assert cfg.train_dataloader is None and 'optim_wrapper' not in cfg


def image_size(cfg):
    """Pixels of a side, from the preprocessor or the config."""
    size = cfg.model.data_preprocessor.get(
        'pad_size_divisor', cfg.get('image_size', 64)
    )
    return size if isinstance(size, int) else size[0]


def run_detector(cfg):
    """Losses and detections of a random image."""
    cfg.model.teacher = None
    cfg.model.roi_head.loss_distill = None
    model = MODELS.build(cfg.model)
    dims, size = model.backbone.embed_dims, image_size(cfg)
    rows = F.normalize(torch.randn(4, dims), dim=1)
    names = Vocabulary(
        ('a', 'b', 'c'),
        rows[:3],
        rows[3],
        torch.tensor([False, False, True]),
        '',
    )
    model.roi_head.bbox_head.set_vocabulary(names)
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(size, size),
            ori_shape=(size, size),
            scale_factor=(1.0, 1.0),
        )
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, size / 2, size / 3]]),
        labels=torch.tensor([1]),
    )
    if model.roi_head.with_mask:
        from mmdet.structures.mask import BitmapMasks

        mask = np.zeros((1, size, size), np.uint8)
        mask[0, 8 : size // 3, 8 : size // 2] = 1
        sample.gt_instances.masks = BitmapMasks(mask, size, size)
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    data = model.data_preprocessor(
        dict(inputs=[image], data_samples=[sample]), True
    )
    total, _ = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert torch.isfinite(total)
    (result,) = model.eval().test_step(
        dict(inputs=[image], data_samples=[sample])
    )
    assert len(result.pred_instances) > 0


def run_pretrainer(cfg):
    """Image embeddings of two random images."""
    model = MODELS.build(cfg.model).eval()
    size = image_size(cfg)
    with torch.no_grad():
        out = model(torch.randn(2, 3, size, size), mode='tensor')
    assert torch.isfinite(out).all() and len(out) == 2


@pytest.mark.parametrize('name', SMALL)
def test_small_models_run(name):
    cfg = read(name)
    run = run_detector if cfg.model.type == 'DITO' else run_pretrainer
    run(cfg)
