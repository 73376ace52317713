# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Configs of public towers fit what the converter makes of the models.

Each of them is also trained for a step: the real config with fewer layers,
channels and pixels, from a tower that the converter made of random weights.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from open_clip import tokenizer as open_clip_tokenizer
from training_runs import write_symbols

from dito.cli import train
from dito.cli.foreign_weights import clip_to_dito
from dito.converters.towers import convert_tower
from dito.models.text.text_tower import resolve_text_arch
from dito.utils.checkpoint import load_from_file

sys.path += [
    str(Path(__file__).parent / folder)
    for folder in ('test_utils/test_towers', 'test_datasets')
]
from detection_files import (  # noqa: E402
    make_annotation,
    make_categories,
    make_image,
    write_images,
    write_json,
)
from tower_files import (  # noqa: E402
    clip_config,
    make_meta_source,
    save_model,
    siglip_config,
)

ROOT = Path(__file__).parents[1] / 'configs'
TOWERS = {'openclip': 'ViT-B-16', 'siglip': 'ViT-B-16-SigLIP'}


def read(name):
    cfg = Config.fromfile(ROOT / name)
    init_default_scope(cfg.default_scope)
    cfg.model.pop('teacher', None)
    return cfg


@pytest.mark.parametrize('name', TOWERS)
def test_both_stages_take_the_converted_tower(name):
    with torch.device('meta'):
        tower = convert_tower(make_meta_source(TOWERS[name]))
        rep_cfg = read(f'pretrain/rep_vitb16_{name}.py')
        cfg = read(f'dito_vitb_lvis_{name}.py')
        rep, detector = (MODELS.build(c.model) for c in (rep_cfg, cfg))
    shapes = [
        {k: v.shape for k, v in x.items()}
        for x in (tower.state, rep.state_dict(), detector.state_dict())
    ]
    first, second, third = shapes
    assert all(second[k] == shape for k, shape in first.items())
    assert all(
        k in ('logit_scale', 'logit_bias') or third[k] == shape
        for k, shape in second.items()
    )
    for model in (rep, detector):
        native = MODELS.build(tower.backbone)
        # The same arithmetic, not only the same shapes.
        assert model.backbone.norm.eps == native.norm.eps
        # With the arguments: GELU is exact or approximate.
        assert repr(model.backbone.blocks[0].mlp.act) == repr(
            native.blocks[0].mlp.act
        )
        assert (model.backbone.head.pool, model.backbone.head.dense) == (
            native.head.pool,
            native.head.dense,
        )
        assert (
            resolve_text_arch(model.text_encoder.arch)
            == (tower.text_encoder['arch'])
        )
        assert (
            model.text_encoder.context_length
            == (tower.text_encoder['context_length'])
        )
        assert not any(
            p.requires_grad for p in model.backbone.head.parameters()
        )
    assert detector.roi_head.bbox_head.embed_dims == (
        detector.backbone.head.out_dims
    )


@pytest.mark.parametrize('name', TOWERS)
def test_stages_follow_each_other(name):
    rep, cfg = (
        read(n)
        for n in (
            f'pretrain/rep_vitb16_{name}.py',
            f'dito_vitb_lvis_{name}.py',
        )
    )
    assert cfg.load_from == f'work_dirs/rep_vitb16_{name}/iter_30000.pth'
    whole = Config.fromfile(ROOT / f'dito_vitb_lvis_{name}.py')
    assert whole.model.teacher.checkpoint == cfg.load_from
    assert rep.load_from == f'pretrained/vitb16_{name}.safetensors'
    mean = rep.model.data_preprocessor.get(
        'mean', cfg.model.data_preprocessor.mean
    )
    assert mean == cfg.model.data_preprocessor.mean
    layer = cfg.model.roi_head.vlm_roi_extractor.roi_layer
    assert layer.output_size * layer.sampling_ratio == 14 and layer.aligned


# ------------------------------------------------------- a step of each config

SIDE = 128
NOVEL = 'umbrella'  # of COCO's 17
OWN = ['cat', 'kite', NOVEL]


class WordTokenizer:
    """In the place of transformers: a piece a word, cleaned as asked."""

    cleaned: list[str] = []

    def __init__(self, path, clean, context_length, **options):
        self.clean = open_clip_tokenizer.get_clean_fn(clean)
        self.length = context_length

    def __call__(self, texts):
        tokens = torch.ones(len(texts), self.length, dtype=torch.int64)
        for row, text in zip(tokens, map(self.clean, texts), strict=True):
            self.cleaned.append(text)
            for i, word in enumerate(text.split()[: self.length]):
                row[i] = 2 + sum(map(ord, word)) % 50
        return tokens


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Two converted towers, and data of every form the configs read."""
    root = tmp_path_factory.mktemp('routes')
    for kind in TOWERS:
        folder = root / kind
        folder.mkdir()
        config = small_tower(kind)
        save_model(config, folder / 'open_clip_model.safetensors')
        (folder / 'open_clip_config.json').write_text(
            json.dumps(dict(model_cfg=config))
        )
        tower = str(root / f'{kind}.safetensors')
        assert clip_to_dito([str(folder), tower]) == 0
    (root / 'tokenizer').mkdir()
    write_symbols(root, 1, 8)
    images = [make_image(i, (160, 120)) for i in range(1, 3)]
    write_images(root / 'images', images)
    for name, names, groups in (
        ('own', OWN, None),
        ('lvis', OWN, 'fcr'),
        ('coco', CocoDataset.METAINFO['classes'], None),
    ):
        ids = [1 + names.index(n) for n in OWN]
        write_json(
            root / f'{name}.json',
            dict(
                images=images,
                categories=make_categories(names, groups),
                annotations=[
                    make_annotation(10 * i + k, i, c, (9, 5, 70, 50 + 9 * k))
                    for i in range(1, 3)
                    for k, c in enumerate(ids)
                ],
            ),
        )
    return root


def small_tower(kind: str) -> dict:
    """open_clip's config of a tower of the real one's structure."""
    if kind == 'siglip':
        return siglip_config(
            'dito_test_siglip_p16',
            text=dict(
                context_length=64,
                hf_tokenizer_name='some/SigLIP',
                tokenizer_kwargs=dict(clean='canonicalize'),
            ),
            image_size=64,
        )
    text = dict(width=16, layers=1, heads=2, context_length=77)
    return clip_config(
        vision=dict(patch_size=16, image_size=64),
        text=dict(text, vocab_size=49408),
    )


def shrink(cfg: Config, root: Path, kind: str) -> None:
    """Reduce a config of any stage to a step with the small tower."""
    small = load_from_file(str(root / f'{kind}.safetensors'))['meta']['model']
    model, image, text = cfg.model, small['backbone'], small['text_encoder']
    dims = text['embed_dims']
    # What the converter says, but for the sizes, is what the config says.
    sizes = ('arch', 'img_size', 'head')
    plain = dict(class_token=False, pre_norm=False, norm_eps=1e-6)
    here = {**plain, 'patch_bias': True, **model.backbone}
    assert {k for k, v in image.items() if here.get(k) != v} <= set(sizes)
    model.backbone.update(arch=image['arch'], img_size=image['img_size'])
    if 'out_dims' in model.backbone.head:
        model.backbone.head.out_dims = dims
    model.neck.in_channels = image['arch']['embed_dims']
    model.roi_head.bbox_head.embed_dims = dims
    model.text_encoder.update(
        arch=text['arch'],
        embed_dims=dims,
    )
    if 'tokenizer' in model.text_encoder:
        assert set(model.text_encoder.tokenizer) == {'path'}
        model.text_encoder.tokenizer.path = str(root / 'tokenizer')
    cfg.train_cfg.update(max_iters=1, val_interval=1, total_batch_size=2)
    cfg.train_dataloader.update(
        batch_size=1, num_workers=0, persistent_workers=False
    )
    # What the next stage starts from; others need not be written.
    cfg.default_hooks.checkpoint.update(
        interval=1 if 'regions' in model else 9, save_last=False
    )
    cfg.default_hooks.logger.interval = 1
    cfg.optim_wrapper.type = 'OptimWrapper'
    narrow(model)
    if 'regions' in model:
        model.regions.num_regions = (8, 4, 2, 1)
        cfg.train_dataloader.dataset.update(
            shards=str(root / '00.tar'), size=64, num_streams=1
        )
        return
    model.roi_head.vlm_roi_extractor.out_channels = image['arch']['embed_dims']
    model.backbone.global_layers = 1
    model.data_preprocessor.pad_size_divisor = SIDE
    model.train_cfg.rpn_proposal.max_per_img = 20
    model.test_cfg.rpn.max_per_img = 20
    cfg.custom_hooks[0].templates = 'none'
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        for step in loader.dataset.pipeline:
            for key in {'scale', 'crop_size'} & set(step):
                step[key] = (SIDE, SIDE)
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_dataloader = cfg.val_dataloader


def narrow(part) -> None:
    """Give pyramid and heads 16 channels instead of 256, at any depth."""
    for key, value in list(part.items()):
        if isinstance(value, dict):
            narrow(value)
        elif value == 256 and key.endswith('channels'):
            part[key] = 16
    if part.get('type') in ('DITOBBoxHead', 'DITOMaskHead'):
        part.conv_out_channels = 16
    if part.get('type') == 'DITOBBoxHead':
        part.fc_out_channels = 32


def point(cfg: Config, root: Path, form: str) -> None:
    """Let a config of LVIS or COCO read the generated files."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.update(
            data_root='',
            ann_file=str(root / f'{form}.json'),
            data_prefix=dict(img=str(root / 'images')),
        )
        if form == 'lvis':
            loader.dataset.metainfo = dict(classes=OWN, novel_classes=[NOVEL])
    cfg.val_evaluator.ann_file = str(root / f'{form}.json')
    cfg.test_dataloader = cfg.val_dataloader
    cfg.test_evaluator = cfg.val_evaluator


def run(root: Path, name: str, start: str, out: Path) -> str:
    """Train a config for a step by the command, and return its log."""
    cfg = Config.fromfile(ROOT / name)
    kind = 'siglip' if 'siglip' in name else 'openclip'
    argv = ['--work-dir', str(out)]
    if 'own' in name:
        for option in ('data', 'val-data'):
            argv += [f'--{option}', str(root / 'own.json')]
        argv += ['--images', str(root / 'images')]
    elif 'rep' not in name:
        point(cfg, root, 'lvis' if 'lvis' in name else 'coco')
    shrink(cfg, root, kind)
    config = out.parent / f'{out.name}.py'
    cfg.dump(config)
    code = train.main(
        [str(config), *argv, '--cfg-options', f'load_from={start}']
    )
    log = ''.join(p.read_text() for p in out.rglob('*.log'))
    return log if code == 0 else f'error {code} {log}'


def losses(log: str) -> list[str]:
    return [line for line in log.splitlines() if 'loss: ' in line]


@pytest.mark.parametrize('kind', TOWERS)
def test_a_step_of_both_stages(files, tmp_path, kind, monkeypatch, capsys):
    """Stage 2, detection with and without it, and what is refused."""
    monkeypatch.setattr(open_clip_tokenizer, 'HFTokenizer', WordTokenizer)
    monkeypatch.setattr(WordTokenizer, 'cleaned', [])
    tower = str(files / f'{kind}.safetensors')
    stage_2 = sorted(
        str(p.relative_to(ROOT)) for p in ROOT.glob(f'pretrain/rep_*_{kind}*')
    )
    assert len(stage_2) == (2 if kind == 'openclip' else 1)
    for name in stage_2:
        log = run(files, name, tower, tmp_path / Path(name).stem)
        assert len(losses(log)) == 1 and ' keys ' not in log
    start = str(tmp_path / Path(stage_2[0]).stem / 'iter_1.pth')
    own = sorted(
        p.name
        for p in ROOT.glob(f'dito_*_{kind}*.py')
        if p.name != f'dito_vitb_lvis_{kind}.py'
    )
    assert f'dito_vitb_own_{kind}.py' in own
    for name in own:
        log = run(files, name, tower, tmp_path / name[:-3])
        assert len(losses(log)) == 1 and 'coco/bbox_AP50: ' in log
        assert ' keys ' not in log
    log = run(files, own[-1], start, tmp_path / 'after_rep')
    assert len(losses(log)) == 1 and ' keys ' not in log
    for group in ('neck', 'rpn_head', 'roi_head.bbox_head'):
        row = next(
            x for x in log.splitlines() if x.startswith(f'{group}  ')
        ).split()
        assert int(row[1]) > 0 and row[2:] == ['0'] * 4, row
    lvis = f'dito_vitb_lvis_{kind}.py'
    assert 'lvis/segm_AP: ' in run(files, lvis, start, tmp_path / 'lvis')
    capsys.readouterr()
    # Of a config that goes on from stage 2 a tower alone is no start.
    run(files, lvis, tower, tmp_path / 'refused')
    assert 'this stage must get from the checkpoint' in capsys.readouterr().err
    if kind == 'siglip':
        texts = set(WordTokenizer.cleaned)
        assert {'cat', 'background'} <= texts
        assert all(
            t == open_clip_tokenizer.canonicalize_text(t) for t in texts
        )
