# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Train all stages with the parts of docs/extending.md."""

import csv
import logging
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from tiny_detector import DIMS, TEXT_ENCODER, bbox_head, extractor, tiny_config
from torch import Tensor
from training_runs import training_cfg

from dito.models import Vocabulary

PAGE = (Path(__file__).parents[2] / 'docs' / 'extending.md').read_text()
TOYS = re.findall(r'^```python\n(.*?)^```', PAGE, re.M | re.S)
COLORS = dict(red=(200, 30, 30), green=(30, 160, 30), blue=(30, 30, 200))
TOWERS = dict(
    backbone=dict(type='ToyBackbone', embed_dims=DIMS),
    text_encoder=dict(type='ToyTextTower', embed_dims=DIMS),
)
HOOKS = dict(
    logger=dict(type='DITOLoggerHook', interval=1),
    checkpoint=dict(type='DITOCheckpointHook', by_epoch=False, interval=2),
    guard=dict(type='DITONonFiniteGuardHook'),
    seed=dict(type='DITOIterationSeedHook'),
    throughput=dict(type='DITOThroughputHook'),
    evaluation=dict(type='DITOEvaluationReportHook'),
)


@pytest.fixture(scope='module')
def toys() -> dict[str, Any]:
    """What the page defines, by name."""
    names: dict[str, Any] = {}
    for number, block in enumerate(TOYS):
        exec(compile(block, f'block {number}', 'exec'), names)
    return names


@pytest.fixture(scope='module')
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures, the table of their captions and that of their boxes."""
    folder = tmp_path_factory.mktemp('tables')
    rng = np.random.default_rng(0)
    pairs, boxes = [], []
    for number in range(9):
        name, color = list(COLORS.items())[number % 3]
        pixels = rng.integers(90, 110, (64, 64, 3), dtype=np.uint8)
        x, y = rng.integers(0, 30, 2).tolist()
        pixels[y : y + 30, x : x + 30] = color[::-1]
        path = str(folder / f'{number}.png')
        cv2.imwrite(path, pixels)
        pairs.append((path, f'a photo of a {name} cat number {number}'))
        boxes.append((path, 64, 64, f'{name} cat', x, y, x + 30, y + 30))
    for table, rows in (('pairs', pairs), ('boxes', boxes)):
        with open(folder / f'{table}.csv', 'w', encoding='utf-8') as file:
            csv.writer(file).writerows(rows)
    return folder


def run(cfg: dict) -> tuple[dict[str, Tensor], str]:
    """Train; the weights, and what was warned of."""
    init_default_scope('mmdet')
    runner = Runner(**cfg)
    said: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        if record.levelno > logging.INFO:
            said.append(record.getMessage())
        return True

    logger = MMLogger.get_current_instance()
    logger.addFilter(note)
    runner.train()
    logger.removeFilter(note)
    return runner.model.state_dict(), '\n'.join(said)


def pair_cfg(tables: Path, folder: Path, size: int, **changes: Any) -> dict:
    """A training on the table of pairs, in micro-batches of 4 and 2."""
    cfg = training_cfg(
        tables,
        ['cat'],
        folder,
        train_cfg__max_iters=4,
        train_dataloader__sampler=dict(type='InfiniteSampler', shuffle=True),
        train_dataloader__dataset=dict(
            type='ToyPairs', table=str(tables / 'pairs.csv'), size=size
        ),
        # Mild, so that rounding does not grow from step to step.
        optim_wrapper__optimizer=dict(type='AdamW', lr=1e-3, eps=1e-3),
        default_hooks=HOOKS,
        custom_hooks=[],
        **changes,
    )
    cfg['model']['loss'] = dict(type='ToyLoss')
    return cfg


def clip_cfg(tables: Path, folder: Path, **changes: Any) -> dict:
    """Stage 1."""
    return pair_cfg(
        tables,
        folder,
        32,
        model=dict(type='mmdet.CLIPPretrainer', **TOWERS),
        **changes,
    )


def rep_cfg(tables: Path, folder: Path, **changes: Any) -> dict:
    """Stage 2."""
    parts = tiny_config()
    return pair_cfg(
        tables,
        folder,
        64,
        model=dict(
            type='mmdet.RegionCentricPretrainer',
            **TOWERS,
            neck=parts.neck,
            rpn_head=parts.rpn_head,
            roi_head=dict(
                type='DITORoIHead',
                bbox_roi_extractor=extractor(7),
                bbox_head=bbox_head(),
            ),
            regions=dict(type='RandomRegions', num_regions=(12, 8, 6, 4)),
        ),
        **changes,
    )


def dito_cfg(tables: Path, folder: Path, **parts: Any) -> dict:
    """Stage 3."""
    model = tiny_config(mask=False, **{**TOWERS, **parts})
    model.backbone = TOWERS['backbone']
    model.text_encoder = parts.get('text_encoder', TOWERS['text_encoder'])
    model.roi_head.ensemble = dict(type='ToyEnsemble')
    pipeline = [
        dict(type='DITOLoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs'),
    ]
    return dict(
        training_cfg(tables, ['cat'], folder),
        model=model,
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=dict(
                type='ToyBoxes',
                ann_file=str(tables / 'boxes.csv'),
                metainfo=dict(classes=tuple(f'{c} cat' for c in COLORS)),
                pipeline=pipeline,
            ),
        ),
        train_cfg=dict(type='DITOTrainLoop', max_iters=4, total_batch_size=4),
        default_hooks=HOOKS,
        custom_hooks=[dict(type='DITOVocabularyHook', templates='none')],
    )


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Beginnings of the names of weights that are not the same."""
    return {
        name.split('.')[0]
        for name, value in after.items()
        if name in before and not torch.equal(value, before[name])
    }


def test_each_part_is_small() -> None:
    assert len(TOYS) == 7
    assert all(len(block.splitlines()) < 40 for block in TOYS)


def test_all_stages_one_after_the_other(
    toys: dict, tables: Path, tmp_path: Path
) -> None:
    start = MODELS.build(clip_cfg(tables, tmp_path)['model']).state_dict()
    clip, said = run(clip_cfg(tables, tmp_path / 'clip'))
    assert 'failed' not in said
    assert changed(start, clip) >= {'backbone', 'text_encoder', 'logit_scale'}
    rep, said = run(
        dict(
            rep_cfg(tables, tmp_path / 'rep'),
            load_from=str(tmp_path / 'clip/iter_4.pth'),
        )
    )
    assert 'failed' not in said
    assert changed(clip, rep) == {'logit_scale'}
    dito, said = run(
        dict(
            dito_cfg(tables, tmp_path / 'dito'),
            load_from=str(tmp_path / 'rep/iter_4.pth'),
        )
    )
    assert changed(rep, dito) >= {'backbone', 'neck', 'rpn_head', 'roi_head'}
    assert 'text_encoder' not in changed(rep, dito)
    assert 'failed' not in said


def test_pairs_go_on_where_a_run_was_interrupted(
    toys: dict, tables: Path, tmp_path: Path
) -> None:
    whole, _ = run(clip_cfg(tables, tmp_path / 'whole'))
    run(clip_cfg(tables, tmp_path / 'half'))
    (tmp_path / 'half/last_checkpoint').write_text(
        str(tmp_path / 'half/iter_2.pth')
    )
    (tmp_path / 'half/iter_4.pth').unlink()
    resumed, _ = run(dict(clip_cfg(tables, tmp_path / 'half'), resume=True))
    for name, value in whole.items():
        torch.testing.assert_close(value, resumed[name], rtol=1e-4, atol=1e-6)


def test_pairs_make_the_batch_of_the_schedule(
    toys: dict, tables: Path, tmp_path: Path
) -> None:
    """Whatever a device takes at a time, and no pair comes twice in it."""
    one, said = run(
        clip_cfg(tables, tmp_path / 'one', train_cfg__total_batch_size=40)
    )
    assert 'The 9 pairs' in said
    other, _ = run(
        clip_cfg(
            tables,
            tmp_path / 'other',
            train_cfg__total_batch_size=40,
            train_cfg__micro_batch=3,
            train_dataloader__batch_size=2,
        )
    )
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)


def test_an_order_with_an_end_is_refused(
    toys: dict, tables: Path, tmp_path: Path
) -> None:
    cfg = clip_cfg(tables, tmp_path)
    cfg['train_dataloader']['sampler'] = dict(type='DefaultSampler')
    with pytest.raises(ValueError, match='DefaultSampler has an end: set '):
        run(cfg)


def detector(tables: Path, folder: Path, **parts: Any) -> Any:
    """A detector of the page's parts."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(dito_cfg(tables, folder, **parts)['model'])
    model.init_weights()
    return model.eval()


def test_names_from_a_table(toys: dict, tables: Path, tmp_path: Path) -> None:
    table = toys['ToyTable'](DIMS)
    names = ('red cat', 'blue dog')
    vocabulary = Vocabulary.from_names(names, table, templates='none')
    expected = table.encode(list(names))
    torch.testing.assert_close(vocabulary.embeddings, expected)
    model = detector(
        tables, tmp_path, text_encoder=dict(type='ToyTable', embed_dims=DIMS)
    ).train()
    model.build_vocabulary(names, templates='none')
    torch.testing.assert_close(model.roi_head.bbox_head.text, expected)
    with pytest.raises(ValueError, match='made by the text tower'):
        detector(tables, tmp_path).set_vocabulary(vocabulary)


def test_scores_are_those_of_the_ensemble(
    toys: dict, tables: Path, tmp_path: Path
) -> None:
    model = detector(tables, tmp_path)
    model.build_vocabulary([f'{c} cat' for c in COLORS])
    det, vlm = torch.randn(2, 4), torch.randn(2, 3)
    got = model.roi_head.score(det, vlm, None)
    p, z = det.softmax(1), vlm.softmax(1)
    torch.testing.assert_close(got[:, :3], (p[:, :3] + z) / 2)
    torch.testing.assert_close(got[:, 3], p[:, 3])
    image = cv2.imread(str(tables / '0.png'))
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0)
        ),
        gt_instances=InstanceData(),
    )
    (found,) = model.test_step(
        dict(
            inputs=[torch.from_numpy(image).permute(2, 0, 1)],
            data_samples=[sample],
        )
    )
    assert len(found.pred_instances) and found.pred_instances.scores.max() < 1


def test_the_loss_is_exact_in_pieces(toys: dict) -> None:
    image, text = torch.randn(6, 8), torch.randn(6, 8)
    whole = toys['ToyLoss']()(image, text, torch.tensor(3.0))
    parts = toys['ToyLoss'](row_chunk=2)(image, text, torch.tensor(3.0))
    torch.testing.assert_close(whole, parts)
    unit = [x / x.norm(dim=1, keepdim=True) for x in (image, text)]
    expected = (
        sum(
            max(
                float(unit[0][i] @ unit[1][j] - unit[0][i] @ unit[1][i]) + 0.2,
                0,
            )
            for i in range(6)
            for j in range(6)
        )
        * 3
        / 6
    )
    assert float(whole) == pytest.approx(expected, rel=1e-5)


def test_the_text_tower_of_the_page(toys: dict) -> None:
    tower = toys['ToyTextTower'](DIMS).requires_grad_(False)
    assert set(TEXT_ENCODER) > {'type', 'embed_dims'}
    rows = tower.encode(['cat', 'a very long name ' * 9, 'cat'])
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    assert torch.equal(rows[0], rows[2])
    before = tower.fingerprint()
    assert before == tower.fingerprint()
    assert before != toys['ToyTextTower'](DIMS, length=9).fingerprint()
    with torch.no_grad():
        tower.letters.weight[99] += 1
    assert before != tower.fingerprint()
