# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""DITO as a project in a clone of MMDetection, run by its own tools."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config
from tiny_api import (
    NAMES,
    detector_config,
    write_annotations,
    write_images,
)

from dito.cli import mmdet_project

MMDET = Path(mmdet.__file__).parent / '.mim'
TRAIN = [
    dict(type='DITOLoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs'),
]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What of a clone of MMDetection counts here: the installed tools."""
    root = tmp_path / 'mmdetection'
    shutil.copytree(MMDET / 'tools', root / 'tools')
    return root


def tiny_config(folder: Path) -> Config:
    """Two iterations of a tiny detector without masks, and a test."""
    cfg = detector_config(
        folder, write_annotations(folder, write_images(folder))
    )
    cfg.custom_imports = dict(imports=['projects.DITO'])
    cfg.model.roi_head.mask_head = cfg.model.roi_head.mask_roi_extractor = None
    train = cfg.test_dataloader.to_dict()
    train['dataset'].update(
        pipeline=TRAIN, test_mode=False, metainfo=dict(classes=tuple(NAMES))
    )
    cfg.train_dataloader = train
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
    cfg.default_hooks = dict(
        checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)
    )
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3)
    )
    cfg.test_evaluator = dict(
        type='DITOCocoMetric', ann_file=cfg.test_evaluator.ann_file
    )
    return cfg


def run(clone: Path, *command: str) -> None:
    """Run Python in the clone, with DITO found there and nowhere else."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=600,
        env={
            **os.environ,
            'OMP_NUM_THREADS': '1',
            'PYTHONPATH': f'{clone}:{clone / "projects" / "DITO"}',
        },
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_trained_and_tested_by_the_tools_of_mmdet(clone: Path) -> None:
    target = mmdet_project.write_project(clone)
    mark = clone / 'imported'
    with open(target / 'dito' / '__init__.py', 'a') as file:
        file.write(f"\nopen('{mark}', 'a').write('x')\n")
    tiny_config(clone).dump(target / 'configs' / 'tiny.py')
    config = 'projects/DITO/configs/tiny.py'
    run(clone, 'tools/train.py', config, '--work-dir', 'work')
    assert (clone / 'work' / 'iter_2.pth').is_file()
    run(
        clone,
        '-m',
        'dito',
        'run',
        'tools/test.py',
        config,
        'work/iter_2.pth',
        '--work-dir',
        'test',
    )
    # Both runs used the copy.
    assert len(mark.read_text()) == 2
    figures = next(
        path
        for path in (clone / 'test').glob('*/*.json')
        if path.stem == path.parent.name
    )
    assert 'coco/bbox_novel_AP50' in json.loads(figures.read_text())


def test_layout(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mmdet_project.main([str(clone)]) == 0
    target = clone / 'projects' / 'DITO'
    cfg = Config.fromfile(
        str(target / 'configs' / 'dito_vitl_lvis.py'),
        import_custom_modules=False,
    )
    assert cfg.custom_imports.imports == ['projects.DITO']
    assert cfg.model.type == 'DITO'
    texts = [p.read_text() for p in (target / 'configs').rglob('*.py')]
    assert not [t for t in texts if "imports=['dito']" in t]
    for name in ('README.md', '__init__.py', 'dito/models/__init__.py'):
        assert (target / name).is_file()
    assert not list(target.rglob('__pycache__'))
    capsys.readouterr()
    assert mmdet_project.main([str(clone)]) == 2
    assert 'exists already' in capsys.readouterr().err
    assert mmdet_project.main([str(clone / 'projects')]) == 2
    assert 'has no tools/train.py' in capsys.readouterr().err
