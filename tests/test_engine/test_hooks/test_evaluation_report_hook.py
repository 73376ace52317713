# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Test of a tiny detector by four metrics at once, reports beside the log."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from tiny_api import NAMES, detector_config, write_annotations, write_images

from dito.apis import save_model
from dito.cli import test as test_tool
from dito.engine.hooks.evaluation_report_hook import vocabulary_sha256
from dito.models.text import Vocabulary


def as_lvis(path: Path) -> Path:
    """Add what federated evaluation needs to a COCO file."""
    content = json.loads(path.read_text())
    for image in content['images']:
        image.update(neg_category_ids=[3], not_exhaustive_category_ids=[])
    for ann in content['annotations']:
        x, y, w, h = ann['bbox']
        ann['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    for category, group in zip(content['categories'], 'rcf', strict=True):
        category['frequency'] = group
    target = path.with_name('lvis.json')
    target.write_text(json.dumps(content))
    return target


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One call of the test tool with four evaluators."""
    folder = tmp_path_factory.mktemp('report')
    annotations = write_annotations(folder, write_images(folder))
    cfg = detector_config(folder, annotations)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    weights = folder / 'model.safetensors'
    save_model(weights, model, cfg, dict(classes=NAMES))
    cfg.model.test_cfg.given_boxes = 'vlm'
    cfg.default_hooks = dict(
        evaluation_report=dict(type='DITOEvaluationReportHook')
    )
    cfg.test_evaluator = [
        dict(
            type='DITOLVISMetric',
            ann_file=str(as_lvis(annotations)),
            metric=['bbox', 'segm'],
            protocols=['standard', 'fixed'],
        ),
        dict(type='DITOCocoMetric', ann_file=str(annotations)),
        dict(type='DITORegionMetric'),
        dict(type='CocoMetric', ann_file=str(annotations), prefix='plain'),
    ]
    cfg.dump(folder / 'tiny.py')
    code = test_tool.main(
        [
            str(folder / 'tiny.py'),
            str(weights),
            '--work-dir',
            str(folder / 'work'),
        ]
    )
    assert code == 0
    log = next((folder / 'work').glob('*/*.log')).read_text()
    report = next((folder / 'work').glob('*/evaluation.json'))
    return dict(
        log=log,
        report=json.loads(report.read_text()),
        model=model,
        weights=weights,
        folder=folder,
    )


def test_report_of_all_metrics(run: dict[str, Any]) -> None:
    lvis, coco, region, plain = run['report']['results']
    assert lvis['metric'] == 'DITOLVISMetric' and lvis['prefix'] == 'lvis'
    assert {'bbox_AP', 'bbox_fixed_AP', 'segm_APr'} <= set(lvis['figures'])
    assert set(lvis['per_category']) == {'bbox', 'bbox_fixed', 'segm'}
    assert {'bbox_AP50', 'bbox_AP75'} <= set(coco['figures'])
    assert region['figures']['boxes'] == 2
    # Another library's metric has figures only.
    assert 'bbox_mAP_50' in plain['figures'] and 'protocol' not in plain


def test_facts_of_the_run(run: dict[str, Any]) -> None:
    digest = hashlib.sha256(run['weights'].read_bytes()).hexdigest()
    rcnn = run['model'].test_cfg.rcnn
    for result in run['report']['results'][:2]:
        found = result['protocol']
        expected = dict(
            config='tiny.py',
            checkpoint='model.safetensors',
            checkpoint_sha256=digest,
            alpha=0.3,
            beta=0.65,
            objectness_power=0.0,
            score_thr=rcnn.score_thr,
            max_per_img=rcnn.max_per_img,
            proposals='50 per image, no NMS',
            input_size='64 x 64, ratio kept',
            vocabulary='3 names, 1 novel',
            text_tower=run['model'].text_encoder.fingerprint(),
            templates=['a photo of {}'],
        )
        assert {key: found[key] for key in expected} == expected
        assert len(found['vocabulary_sha256']) == 64
    regions = run['report']['results'][2]['protocol']
    assert regions['split'] == 'annotations.json'
    assert regions['score'].startswith('z') and not {
        'alpha',
        'proposals',
        'max_per_img',
    } & set(regions)
    assert regions['checkpoint_sha256'] == digest


def test_tables_are_in_the_log_with_their_protocol(
    run: dict[str, Any],
) -> None:
    for text in (
        'LVIS lvis.json: protocol',
        'COCO protocol, annotations',
        'bbox_fixed',
        'Annotated boxes',
        'checkpoint_sha256',
        'beta',
        'max_dets',
    ):
        assert text in run['log']
    assert 'evaluation.json' in run['log']
    # A remark is of no use if its end is missing.
    assert 'raise test_cfg.rcnn.max_per_img' in run['log']


def test_metrics_of_another_file_are_warned_of(run: dict[str, Any]) -> None:
    # The LVIS form is a file of its own here; the others are the set's.
    assert run['log'].count('but the images are those of') == 1
    assert 'DITOLVISMetric judges by ' in run['log']


def test_hash_of_a_vocabulary() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(3, 4), dim=-1)
    novel = torch.tensor([False, True])

    def make(**change: Any) -> str:
        parts = dict(
            names=('a', 'b'),
            embeddings=vectors[:2],
            background=vectors[2],
            novel=novel,
            fingerprint='x',
        )
        return vocabulary_sha256(Vocabulary(**{**parts, **change}))

    assert make() == make(fingerprint='y')
    others = [
        make(names=('a', 'c')),
        make(embeddings=vectors[1:]),
        make(background=vectors[0]),
        make(novel=~novel),
    ]
    assert len({make(), *others}) == 5
