# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The tool classifies given boxes with weights of any stage."""

import json
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tiny_api import detector_config, write_annotations, write_images
from tiny_detector import tiny_config

from dito.cli import region_accuracy
from dito.engine.hooks.evaluation_report_hook import model_facts
from dito.utils.checkpoint import save_safetensors
from dito.utils.configs import config_root


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, weights of a detector, and those of its towers alone."""
    folder = tmp_path_factory.mktemp('region')
    cfg = detector_config(
        folder, write_annotations(folder, write_images(folder))
    )
    cfg.custom_hooks.append(
        dict(type='DITOLoadReportHook', required=['backbone', 'neck'])
    )
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    state = model.state_dict()
    save_safetensors(state, folder / 'whole.safetensors')
    towers = {
        k: v
        for k, v in state.items()
        if k.startswith(('backbone', 'text_encoder'))
    }
    save_safetensors(towers, folder / 'towers.safetensors')
    cfg.dump(folder / 'tiny.py')
    return folder


def run(folder: Path, weights: str, *more: str) -> dict:
    """Figures that the tool wrote."""
    work = folder / f'{weights}{len(more)}'
    code = region_accuracy.main(
        [
            str(folder / 'tiny.py'),
            str(folder / f'{weights}.safetensors'),
            '--work-dir',
            str(work),
            *more,
        ]
    )
    assert code == 0
    return json.loads(next(work.glob('2*/2*.json')).read_text())


def test_towers_alone_are_enough_for_z(folder: Path) -> None:
    whole, towers = run(folder, 'whole'), run(folder, 'towers')
    assert whole.keys() == towers.keys()
    for key, value in whole.items():
        if 'time' not in key:
            assert towers[key] == value, key
    assert whole['region/boxes'] == 2
    assert 0 <= whole['coco/bbox_mAP'] <= 1


@pytest.mark.parametrize(
    'score, has',
    [
        ('vlm', {'vlm_temperature'}),
        ('det', set()),
        ('ensemble', {'alpha', 'beta', 'vlm_temperature'}),
    ],
)
def test_ap_says_that_the_boxes_were_given(score: str, has: set) -> None:
    init_default_scope('mmdet')
    model = MODELS.build(
        tiny_config(type='DITORegionClassifier', mask=False, score=score)
    )
    facts = model_facts(model)
    assert facts['boxes'].startswith('annotated')
    assert facts['score'] == score and facts['max_per_img'] == 300
    asked = {
        'alpha',
        'beta',
        'vlm_temperature',
        'objectness_power',
        'score_thr',
        'nms_iou',
    }
    assert asked & set(facts) == has


def test_p_needs_the_heads(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 'region/all_top1' in run(folder, 'whole', '--score', 'det')
    assert (
        region_accuracy.main(
            [
                str(folder / 'tiny.py'),
                str(folder / 'towers.safetensors'),
                '--score',
                'det',
                '--work-dir',
                str(folder / 'x'),
            ]
        )
        == 2
    )
    assert 'neck' in capsys.readouterr().err


def test_needs_a_detector(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        region_accuracy.main(
            ['clip_symbols', str(folder / 'towers.safetensors')]
        )
        == 2
    )
    assert 'one of a detector' in capsys.readouterr().err


def test_metric_of_the_config_is_not_asked_twice() -> None:
    cfg = Config.fromfile(config_root() / 'symbols' / 'dito_symbols.py')
    region_accuracy.use_given_boxes(cfg, 'det')
    kinds = [evaluator.type for evaluator in cfg.test_evaluator]
    assert kinds == ['DITORegionMetric', 'DITOLVISMetric', 'DITOCocoMetric']
    assert 'given_boxes' not in cfg.model.test_cfg
