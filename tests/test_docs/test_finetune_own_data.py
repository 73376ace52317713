# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Run every command of docs/finetune_own_data.md, with two iterations."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from dito.cli.options import find_main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'finetune_own_data.md').read_text()
TWENTY = ROOT / 'tests' / 'data' / 'twenty'


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', PAGE, re.M | re.S)


ITERS = Config.fromfile(TWENTY / 'own_data.py').train_cfg.max_iters
COMMANDS = [line for block in blocks('bash') for line in block.splitlines()]
# What makes it fast: two steps; and mmengine wants a name for each run.
SHORT = (
    'max_iters=2 train_cfg.max_iters=2 train_cfg.val_interval=9 '
    'default_hooks.checkpoint.interval=2 train_dataloader.batch_size=2 '
    'train_dataloader.num_workers=0'
).split()


def figures(folder):
    """Figures of each test in a work folder."""
    files = [
        json.loads(path.read_text())
        for path in sorted(folder.glob('2*/2*.json'))
    ]
    return [
        {k: v for k, v in file.items() if k.startswith('coco/')}
        for file in files
    ]


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """A folder that looks like the clone, to run in."""
    folder = tmp_path_factory.mktemp('clone')
    for name in ('configs', 'tests', 'tools'):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(command, number):
    """Run a tool of the page in this process."""
    dito, name, *argv = shlex.split(command)
    assert dito == 'dito', command
    argv = [word.replace(f'iter_{ITERS}.', 'iter_2.') for word in argv]
    if name in ('train', 'test'):
        argv += [
            '--cfg-options',
            f'experiment_name=page{number}',
            'test_dataloader.num_workers=0',
        ]
    if name == 'train':
        argv += SHORT
    assert find_main(name)(argv) == 0, command


def test_the_commands_of_the_page(clone, monkeypatch):
    monkeypatch.chdir(clone)
    tools = [shlex.split(line)[1] for line in COMMANDS]
    assert tools == [
        'check-dataset',
        'check-dataset',
        'train',
        'test',
        'test',
        'detect',
        'build-text-embeddings',
        'test',
    ]
    for number, command in enumerate(COMMANDS):
        torch.manual_seed(0)
        run(command, number)
    # By config, by data alone, and from a vocabulary file: one result.
    (by_config,) = figures(clone / 'work_dirs' / 'own_data')
    assert {'coco/base_ap50', 'coco/novel_ap50'} <= set(by_config)
    by_data, by_file = figures(clone / 'work_dirs' / 'own_data_on_val')
    assert by_data == by_config and by_file == by_config
    assert list((clone / 'outputs').rglob('*.json'))


def test_the_config_of_the_page_is_the_one_that_is_run():
    assert blocks('python') == [(TWENTY / 'own_data.py').read_text()]


def test_the_twenty_images():
    train, val = (
        json.loads((TWENTY / f'{part}.json').read_text())
        for part in ('train', 'val')
    )
    assert len(train['images']) + len(val['images']) == 20
    assert (len(train['annotations']), len(val['annotations'])) == (32, 20)
    names = [[c['name'] for c in part['categories']] for part in (train, val)]
    assert names[1][:8] == names[0] and len(names[1]) == 12
    size = sum(p.stat().st_size for p in TWENTY.rglob('*') if p.is_file())
    assert size < 300_000
