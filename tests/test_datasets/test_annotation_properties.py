# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What holds of any annotation file, on files with every oddity allowed.

What the check passes is loaded, trained on and judged right by all metrics;
what loading leaves out is counted by the check, in the same words.
"""

import argparse
import json
import random
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from annotation_oddities import FAULTS, NAMES, SIZES, Oddity, draw, spoil
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from tiny_detector import build, vocabulary

from dito.cli import transfer
from dito.datasets.annotations import read_annotations
from dito.datasets.checks import SetReport, check_config
from dito.datasets.convert import convert_file
from dito.reports.samples import read_annotated

SEEDS = [(seed, form) for seed in range(20) for form in ('coco', 'lvis')]
TYPES = dict(coco='DITOCocoDataset', lvis='DITOLVISDataset')
METRIC_TYPES = dict(coco='DITOCocoMetric', lvis='DITOLVISMetric')
ENCODINGS = ('utf-8', 'utf-8-sig', 'utf-16', 'utf-32-be')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp('pictures')
    rng = np.random.default_rng(0)
    for place, (width, height) in enumerate(SIZES):
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{place}.png'), pixels)
    return str(folder)


@lru_cache(maxsize=2)
def model(masks: bool) -> Any:
    torch.manual_seed(0)
    detector = build(mask=masks)
    detector.init_weights()
    detector.set_vocabulary(vocabulary(len(NAMES)))
    return detector


def write(folder: Path, content: dict, seed: int = 0) -> str:
    path = folder / 'odd.json'
    text = json.dumps(content, ensure_ascii=bool(seed % 2))
    path.write_text(text, encoding=ENCODINGS[seed % len(ENCODINGS)])
    return str(path)


def config(path: str, pictures: str, form: str, masks: bool) -> Config:
    """A training and a test of a file."""
    dataset = dict(
        type=TYPES[form],
        ann_file=path,
        data_prefix=dict(img=pictures),
        metainfo=dict(classes=NAMES),
        serialize_data=False,
    )
    train = dict(
        dataset,
        pipeline=[
            dict(type='DITOLoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
            dict(type='Resize', scale=(64, 64), keep_ratio=True),
            dict(type='PackDetInputs'),
        ],
    )
    test = dict(
        dataset,
        test_mode=True,
        pipeline=[
            dict(type='DITOLoadImageFromFile'),
            dict(type='PackDetInputs'),
        ],
    )
    metric = dict(
        type=METRIC_TYPES[form],
        ann_file=path,
        metric=['bbox', 'segm'] if masks else ['bbox'],
    )
    return Config(
        dict(
            model=dict(roi_head=dict(mask_head=dict(a=1) if masks else None)),
            train_dataloader=dict(dataset=train),
            test_dataloader=dict(dataset=test),
            test_evaluator=metric,
        )
    )


def check(cfg: Config) -> SetReport:
    """Check a set as it is trained on, and as it is judged."""
    reports = []
    for name in ('train', 'test'):
        part = Config(
            {
                f'{name}_dataloader': cfg[f'{name}_dataloader'],
                'test_evaluator': cfg.test_evaluator,
            }
        )
        reports += check_config(part)
    train, test = reports
    assert {f.kind for f in test.problems()} == {
        f.kind for f in train.problems()
    } - {'no_boxes'}
    return train


def train_step(dataset: Any, masks: bool) -> None:
    """Train a step with all images."""
    detector = model(masks)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-4)
    batch = pseudo_collate([dataset[i] for i in range(len(dataset))])
    log = detector.train_step(batch, OptimWrapper(optimizer))
    assert all(torch.isfinite(v).all() for v in log.values()), log
    assert all(torch.isfinite(p).all() for p in detector.parameters())


def truth_as_detections(oddity: Oddity, dataset: Any) -> list[dict]:
    """What a perfect detector returns."""
    classes = dataset.metainfo['classes']
    samples = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        place = int(Path(info['img_path']).stem)
        own = [o for o in oddity.objects if o.image == place]
        boxes = np.array([o.box for o in own], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        samples.append(
            dict(
                img_id=info['img_id'],
                pred_instances=dict(
                    bboxes=torch.tensor(boxes, dtype=torch.float32),
                    scores=torch.linspace(0.9, 0.5, len(own)),
                    labels=torch.tensor(
                        [classes.index(NAMES[o.category]) for o in own]
                    ),
                    masks=[o.rle for o in own],
                ),
            )
        )
    return samples


def assert_found(oddity: Oddity, cfg: Config) -> None:
    """AP is 1 of each class that has objects which count."""
    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    assert len(dataset) == len(SIZES)
    metric = METRICS.build(cfg.test_evaluator)
    metric.dataset_meta = dataset.metainfo
    metric.process({}, truth_as_detections(oddity, dataset))
    metric.evaluate(len(dataset))
    federated = type(metric).__name__ == 'DITOLVISMetric'
    counted = {
        NAMES[o.category]
        for o in oddity.objects
        if not (o.ignore if federated else o.crowd)
    }
    assert metric.per_category.keys() == set(metric.metrics)
    for rows in metric.per_category.values():
        found = {row['name']: row['AP'] for row in rows}
        assert found == pytest.approx(
            {name: 1 if name in counted else -1 for name in NAMES}
        )


def assert_left_out(oddity: Oddity, dataset: Any, report: SetReport) -> None:
    """The data set and the check count what is left out, in one way."""
    reasons = Counter(o.left_out() for o in oddity.objects)
    kept = reasons.pop('', 0)
    assert (
        sum(
            len(dataset.get_data_info(i)['instances'])
            for i in range(len(dataset))
        )
        == kept
    )
    assert dataset.num_skipped == reasons
    words = {f'{number} {reason}' for reason, number in reasons.items()}
    assert words == {
        text
        for f in report.findings
        if f.kind == 'left_out_objects'
        for text in f.examples
    }
    assert report.counts['used_boxes'] == sum(
        not o.crowd for o in oddity.objects if not o.left_out()
    )


def assert_masks_missed(oddity: Oddity, cfg: Config) -> None:
    """Check, training and metric say that masks are missing."""
    (lost,) = (f for f in check(cfg).problems() if f.kind == 'missing_mask')
    assert lost.number == sum(o.rle is None for o in oddity.objects)
    kept = [o for o in oddity.objects if not o.left_out()]
    if any(o.rle is not None for o in kept):
        train_step(DATASETS.build(cfg.train_dataloader.dataset), True)
    else:
        with pytest.raises(ValueError, match=f'none of the {len(kept)} obj'):
            DATASETS.build(cfg.train_dataloader.dataset)
    with pytest.raises(ValueError, match=f'{lost.number} of .* have none'):
        METRICS.build(cfg.test_evaluator).dataset_meta = dict(classes=NAMES)


@pytest.mark.parametrize('seed, form', SEEDS)
def test_what_the_check_passes(seed, form, tmp_path, pictures):
    oddity = draw(seed, form)
    path = write(tmp_path, oddity.content, seed)
    cfg = config(path, pictures, form, oddity.masks)
    report = check(cfg)
    problems = {f.kind for f in report.problems()}
    assert problems == oddity.problems, report

    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert_left_out(oddity, dataset, report)
    train_step(dataset, oddity.masks)
    if not oddity.masks:
        assert_masks_missed(oddity, config(path, pictures, form, True))
    read = read_annotations(path)
    drawn = read_annotated(Path(path), Path(pictures))
    assert sum(len(i.objects) for i in drawn.images) == len(oddity.objects)
    target = str(tmp_path / 'all.json')
    convert_file(path, target, split='all')
    assert read_annotations(target).annotations == read.annotations

    if problems:
        return
    assert_found(oddity, cfg)
    transfer.use_data(
        cfg,
        argparse.Namespace(
            data=target,
            images=pictures,
            work_dir='',
            novel='none',
            checkpoint='',
            vocabulary=None,
        ),
    )
    cfg.test_dataloader.dataset.serialize_data = False
    assert cfg.test_evaluator.metric == (
        ['bbox', 'segm'] if oddity.masks else ['bbox']
    )
    assert_found(oddity, cfg)


def refusals(
    path: str, pictures: str, form: str, masks: bool
) -> dict[str, str]:
    """What each reader says of a file; '' where it takes it."""
    init_default_scope('mmdet')
    cfg = config(path, pictures, form, masks)
    options = argparse.Namespace(
        data=path,
        images=pictures,
        work_dir='',
        novel='none',
        checkpoint='',
        vocabulary=None,
    )

    def metric() -> None:
        METRICS.build(cfg.test_evaluator).dataset_meta = dict(classes=NAMES)

    said = {}
    for name, reader in dict(
        loader=lambda: DATASETS.build(cfg.train_dataloader.dataset),
        metric=metric,
        converter=lambda: convert_file(path, f'{path}.all', split='all'),
        drawing=lambda: read_annotated(Path(path), Path(pictures)),
        transfer=lambda: transfer.use_data(cfg.copy(), options),
    ).items():
        said[name] = ''
        try:
            reader()
        except ValueError as error:
            said[name] = str(error)
    return said


@pytest.mark.parametrize('form', ['coco', 'lvis'])
@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('kind', FAULTS)
def test_what_the_check_finds_is_refused_in_the_same_words(
    kind, seed, form, tmp_path, pictures
):
    rng = random.Random(f'{kind} {seed}')
    oddity = draw(seed, form)
    spoil(oddity.content, kind, rng)
    path = write(tmp_path, oddity.content, 1)
    masks = kind == 'bad_mask' or oddity.masks
    report = check(config(path, pictures, form, masks))
    (found,) = (
        f
        for f in report.problems()
        if f.kind == ('bad_image' if kind == 'no_file' else kind)
    )
    said = refusals(path, pictures, form, masks)
    sentence = said['loader']
    assert sentence.startswith(f'{path}: ') and len(sentence) < 500
    assert found.examples[0] in sentence
    silent = {'metric', 'converter'} if kind == 'no_file' else set()
    assert said == {name: sentence * (name not in silent) for name in said}
    if kind == 'bad_mask':
        # Who needs no mask takes the file.
        said = refusals(path, pictures, form, False)
        assert {name for name in said if not said[name]} == {
            'loader',
            'metric',
            'transfer',
        }


@pytest.mark.parametrize(
    'text, words',
    [
        ('[' * 100_000, 'is nested too deeply'),
        ('{"images": ' * 10**6, 'is nested too deeply'),
        ('{"images": [], "annotations": []}', r"has no ['categories']"),
        ('{"images": null, "categories": []}', r"has no ['images']"),
        (
            '{"images": [{"id": ' + '9' * 10_000 + '}], "categories": []}',
            'is not valid JSON',
        ),
        ('{"images": [', 'may be incomplete'),
        ('\0\0', 'is not valid JSON'),
        ('', 'is not valid JSON'),
        ('[1, 2]', 'a COCO or LVIS style detection file is expected'),
    ],
)
def test_other_files_are_refused_in_the_same_words(
    text, words, tmp_path, pictures
):
    path = tmp_path / 'odd.json'
    path.write_text(text)
    said = refusals(str(path), pictures, 'coco', False)
    (report,) = check_config(
        Config(
            dict(
                test_dataloader=config(
                    str(path), pictures, 'coco', False
                ).test_dataloader
            )
        )
    )
    said['check'] = report.findings[0].examples[0]
    assert [f.kind for f in report.problems()] == ['bad_file']
    (sentence,) = set(said.values())
    assert words in sentence and sentence.startswith(str(path))
