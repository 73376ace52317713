# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Numbers and gradients of the pretraining configs."""

import json
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from dito.cli import test as test_tool
from dito.datasets.image_text.evaluation_sets import imagenet_names
from dito.models.pretrainers import BatchPlace
from dito.models.text import DITOTextEncoder

sys.path.append(str(Path(__file__).parent / 'test_datasets'))
from image_text_files import jpeg  # noqa: E402

ROOT = Path(__file__).parents[1] / 'configs'
TEXTS = ['a photo of a red star', 'a blue anchor', 'an old green key']


def read(name):
    cfg = Config.fromfile(ROOT / name)
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('tower', 'lbs')
@pytest.mark.parametrize(
    'stage,batch,iters,size',
    [('clip', 16384, 500000, 224), ('rep', 4096, 30000, 256)],
)
def test_numbers_of_the_paper(stage, batch, iters, size, tower):
    path = f'pretrain/{stage}_vit{tower}16_laion2b.py'
    cfg, loader = read(path), read(path).train_dataloader
    gpus, size_at_a_time = (64, 256) if stage == 'clip' else (16, 32)
    assert loader.batch_size == size_at_a_time
    if tower == 'l':
        header = (ROOT / path).read_text()
        assert f'# A step has the {batch:,} pairs of the schedule' in header
        assert f'embeds {size_at_a_time} at a time' in header
    assert cfg.train_cfg.total_batch_size == batch
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.train_cfg.max_iters == iters
    assert cfg.param_scheduler[-1].end == iters
    assert cfg.param_scheduler[-1].type == 'PolyLR'
    assert loader.dataset.size == size
    assert loader.dataset.num_streams % (gpus * loader.num_workers) == 0
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'
    assert cfg.model.backbone.get('window') is None
    warmup = [s for s in cfg.param_scheduler if s.type == 'LinearLR']
    assert [(s.begin, s.end) for s in warmup] == (
        [(0, 2000)] if stage == 'clip' else []
    )
    decay = cfg.param_scheduler[-1]
    assert (decay.power, decay.eta_min) == (1, 0)
    assert decay.begin == (2000 if stage == 'clip' else 0)
    if stage == 'clip':
        assert cfg.optim_wrapper.optimizer.lr == (
            4e-4 if tower == 'l' else 5e-4
        )
        assert cfg.model.cpe == dict(
            up_size=64, scale=(0.1, 1.0), ratio=(0.5, 2.0)
        )
    else:
        assert cfg.optim_wrapper.optimizer.lr == 1e-4
        assert cfg.model.regions.num_regions == (400, 200, 100, 50)
        previous = f'clip_vit{tower}16_laion2b'
        assert cfg.load_from == f'work_dirs/{previous}/iter_500000.pth'
        assert (
            cfg.model.text_encoder
            == read(f'pretrain/{previous}.py').model.text_encoder
        )


@pytest.mark.parametrize('stage, decay', [('clip', 0.2), ('rep', 0.01)])
def test_what_is_decayed(stage, decay):
    cfg = read(f'pretrain/{stage}_vits16_laion2b.py')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(
        model, dict(cfg.optim_wrapper, type='OptimWrapper')
    )
    names = {id(p): n for n, p in model.named_parameters()}
    for group in wrapper.param_groups:
        for param in group['params']:
            if not param.requires_grad:
                continue
            key = names.pop(id(param))
            # Kernels alone; neither norms, biases, positions nor the scale.
            kernel = param.ndim > 1 and 'pos' not in key
            assert group['weight_decay'] == (decay if kernel else 0), key
    assert not [
        n for n in names.values() if model.get_parameter(n).requires_grad
    ]


@pytest.mark.parametrize('tower', 'lbs')
def test_both_stages_and_the_detector_share_names(tower):
    parts = [
        f'pretrain/clip_vit{tower}16_laion2b.py',
        f'pretrain/rep_vit{tower}16_laion2b.py',
        f'dito_vit{tower}_lvis.py',
    ]
    with torch.device('meta'):
        models = []
        for part in parts:
            cfg = read(part)
            cfg.model.pop('teacher', None)
            models.append(MODELS.build(cfg.model))
    clip, rep, detector = (
        {k: v.shape for k, v in m.state_dict().items()} for m in models
    )
    assert all(rep[name] == shape for name, shape in clip.items())
    for name, shape in rep.items():
        assert name == 'logit_scale' or detector[name] == shape, name


@pytest.mark.parametrize(
    'name', ['symbols/clip_symbols.py', 'symbols/rep_symbols.py']
)
def test_what_is_trained_has_a_gradient(name):
    cfg = read(name)
    cfg.model.text_encoder.token_ids = DITOTextEncoder.collect_token_ids(TEXTS)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    size = cfg.train_dataloader.dataset.size
    loss, _ = model.parse_losses(
        model(
            torch.randn(3, 3, size, size),
            TEXTS,
            place=BatchPlace(0, 0, 0, 3),
            mode='loss',
        )
    )
    loss.backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    assert any(p.requires_grad for p in model.parameters())


def test_evaluation_during_training_is_known():
    """Sets, metrics and loop of the file to inherit from exist."""
    cfg = Config.fromfile(ROOT / '_base_/datasets/image_text_eval.py')
    (extra,) = cfg.val_cfg.extra
    assert LOOPS.get(cfg.val_cfg.type) is not None
    for evaluator in (cfg.val_evaluator, extra.evaluator):
        METRICS.build(evaluator)
    for loader in (cfg.val_dataloader, extra.dataloader):
        assert DATASETS.get(loader.dataset.type) is not None
        assert loader.sampler == dict(type='DefaultSampler', shuffle=False)
        assert loader.dataset.size == 224
    hook, _ = (HOOKS.build(h) for h in cfg.custom_hooks)
    assert hook.templates == 'openai'
    both = Config.fromfile(ROOT / 'pretrain/clip_vitl16_laion2b.py')
    both.merge_from_dict(cfg.to_dict())
    assert both.train_cfg.type == 'ImageTextTrainLoop'


def test_evaluation_of_symbols_during_training():
    """Both stages measure retrieval; stage 1 is tested by its classes."""
    for stage, size in (('clip', 64), ('rep', 128)):
        cfg = read(f'symbols/{stage}_symbols.py')
        parts = [
            dict(dataloader=cfg.val_dataloader, evaluator=cfg.val_evaluator),
            *cfg.val_cfg.get('extra', []),
        ]
        pairs = parts[-1]
        assert type(METRICS.build(pairs['evaluator'])).__name__ == (
            'DITORetrievalMetric'
        )
        assert pairs['dataloader'].sampler == dict(
            type='DefaultSampler', shuffle=False
        )
        assert pairs['dataloader'].dataset == dict(
            type='DITORetrievalDataset',
            size=size,
            shards='data/symbols/image_text/val-000000.tar',
        )
        assert cfg.train_dataloader.dataset.size == size
        assert cfg.train_cfg.val_interval <= cfg.train_cfg.max_iters
    clip = read('symbols/clip_symbols.py')
    assert clip.val_cfg.type == 'DITOMultiValLoop'
    assert clip.test_evaluator == dict(type='DITOZeroShotMetric')
    assert clip.test_dataloader.dataset.type == 'DITOFolderDataset'
    (hook,) = clip.custom_hooks
    assert hook.type == 'DITOZeroShotHook'
    saved = clip.default_hooks.checkpoint.save_best
    assert saved.startswith('zero_shot/')


def test_a_finished_stage_1_is_tested_on_imagenet(tmp_path, capsys):
    """By tools/test.py with the config of the training, ViT-S made small."""
    pytest.importorskip('mmpretrain')
    from mmpretrain.datasets.categories import IMAGENET_CATEGORIES

    assert len(IMAGENET_CATEGORIES) == 1000
    root = tmp_path / 'imagenet' / 'val'
    for number in range(1000):
        (root / f'n{number:08d}').mkdir(parents=True)
    labels = (0, 7, 7, 999)
    for i, label in enumerate(labels):
        folder = root / f'n{label:08d}'
        # Pictures of one grey each.
        (folder / f'{i}.JPEG').write_bytes(jpeg(value=60 * i))
    cfg = Config.fromfile(ROOT / 'pretrain/clip_vits16_laion2b.py')
    cfg.model.backbone.arch = dict(embed_dims=16, num_layers=1, num_heads=2)
    cfg.model.text_encoder.update(
        arch=dict(width=16, layers=1, heads=2), embed_dims=16
    )
    cfg.test_dataloader.dataset.dataset.data_root = str(root.parent)
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.custom_hooks[0].templates = 'none'
    path = tmp_path / 'stage_1.py'
    cfg.dump(path)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    # What the text tower says of the second image's class is where a map
    # without content points to: it is named right, and the third with it.
    names = imagenet_names()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.zero_()
        text = model.text_encoder.encode([names[7]])[0]
        model.backbone.norm.bias.copy_(text)
    weights = tmp_path / 'stage_1.pth'
    torch.save(dict(state_dict=model.state_dict()), weights)
    work = ['--work-dir', str(tmp_path / 'out')]
    assert test_tool.main([str(path), str(weights), *work]) == 0
    (report,) = tmp_path.glob('out/*/evaluation*.json')
    (result,) = json.loads(report.read_text())['results']
    assert result['figures']['all_top1'] == 50
    assert result['protocol']['classes'] == '1000 (0 novel)'
    # Weights of another kind do not pass for untrained ones.
    torch.save(dict(state_dict=model.backbone.state_dict()), weights)
    assert test_tool.main([str(path), str(weights), *work]) == 2
    assert 'None of the weights' in capsys.readouterr().err
