# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A sharded run is the run that is not sharded."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch.distributed.tensor import DTensor
from training_runs import Forked, records, train, training_cfg, write_symbols

from dito.engine import DITOFlexibleRunner
from dito.engine.strategies import DITOFSDPStrategy
from dito.utils.checkpoint import load_from_file

PAPER = Path(__file__).parents[3] / 'configs/pretrain'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('shards')
    return root, write_symbols(root, shards=4, number=12)


def cfg(data, folder, batch_size=6, **changes):
    changes.setdefault('custom_hooks', [])
    result = training_cfg(
        *data,
        folder,
        train_cfg__max_iters=6,
        optim_wrapper__optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
        train_dataloader__batch_size=batch_size,
        **changes,
    )
    result['default_hooks']['checkpoint']['max_keep_ckpts'] = 5
    return result


def train_sharded(config, resume=False, **strategy):
    config = dict(
        config,
        launcher='pytorch',
        resume=resume,
        strategy=dict(type='DITOFSDPStrategy', **strategy),
    )
    torch.set_num_threads(1)
    runner = DITOFlexibleRunner(**config)
    runner.train()
    runner.model.reshard()  # a validation leaves the outermost part whole
    shares = [p for p in runner.model.parameters() if isinstance(p, DTensor)]
    assert len(shares) == len(list(runner.model.parameters())) - 1
    assert any(p.to_local().numel() == p.numel() // 2 for p in shares)
    assert type(runner.model.backbone.blocks[0]).__name__ == 'FSDPBlock'


def whole(folder, step=6):
    return load_from_file(str(folder / f'iter_{step}.pth'))


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            other[name], value, rtol=1e-4, atol=1e-5, msg=name
        )


def assert_same_run(one, other):
    """Weights, optimizer and logs of two runs."""
    a, b = whole(one), whole(other)
    assert_close(a['state_dict'], b['state_dict'])
    assert a['optimizer']['param_groups'] == b['optimizer']['param_groups']
    slots = (a['optimizer']['state'], b['optimizer']['state'])
    assert slots[0].keys() == slots[1].keys() and len(slots[0]) > 10
    for number, slot in slots[0].items():
        assert_close(slot, slots[1][number])


def logged(folder, name, world_size=1):
    return [float.fromhex(r[name]) for r in records(f'{folder}.jsonl')]


@pytest.mark.parametrize('micro_batch', [None, 2])
def test_two_processes_train_as_one(tmp_path, data, micro_batch):
    changes = dict(train_cfg__micro_batch=micro_batch)
    one, two = tmp_path / 'one', tmp_path / 'two'
    train(cfg(data, one, **changes))
    Forked(
        train_sharded, cfg(data, two, 3, **changes), ranks=2, folder=tmp_path
    ).join()
    assert_same_run(one, two)
    for name in ('loss_image', 'loss', 'mean_grad_norm'):
        assert logged(two, name) == pytest.approx(logged(one, name), rel=1e-4)
    # Keys in the order of one process, dealt out to the two.
    for a, b, c in zip(
        records(f'{one}.jsonl'),
        records(f'{two}.jsonl'),
        records(f'{two}.jsonl', 1),
        strict=True,
    ):
        assert a['keys'][::2] == b['keys'] and a['keys'][1::2] == c['keys']


def test_checkpoints_are_exchanged_with_plain_runs(tmp_path, data):
    """Sharded after plain, and plain after sharded."""
    straight = tmp_path / 'straight'
    train(cfg(data, straight))
    runs = tmp_path / 'plain_first', tmp_path / 'sharded_first'
    first = [cfg(data, runs[0]), cfg(data, runs[1], 3)]
    for config in first:
        config['train_cfg']['max_iters'] = 3
    train(first[0])
    Forked(train_sharded, first[1], ranks=2, folder=tmp_path).join()
    Forked(
        train_sharded, cfg(data, runs[0], 3), True, ranks=2, folder=tmp_path
    ).join()
    train(cfg(data, runs[1], resume=True))
    for folder in runs:
        steps = [r['iter'] for r in records(f'{folder}.jsonl')]
        assert steps == list(range(6))
        assert_same_run(straight, folder)


def test_a_sharded_run_skips_a_damaged_checkpoint(tmp_path, data):
    folder = tmp_path / 'run'
    config = cfg(data, folder, 3, train_cfg__micro_batch=None)
    Forked(train_sharded, config, ranks=2, folder=tmp_path).join()
    wanted = whole(folder)['state_dict']
    (folder / 'iter_6.pth').write_bytes(b'cut off')
    config = cfg(data, folder, 3, train_cfg__micro_batch=None)
    Forked(train_sharded, config, True, ranks=2, folder=tmp_path).join()
    for name, value in whole(folder)['state_dict'].items():
        assert torch.equal(value, wanted[name]), name
    assert [r['iter'] for r in records(f'{folder}.jsonl')] == [
        0,
        1,
        2,
        3,
        4,
        5,
        3,
        4,
        5,
    ]


def test_class_names_are_embedded_by_a_sharded_tower(tmp_path, data):
    """Zero-shot evaluation during training, as in one process."""
    root = tmp_path / 'classes'
    for name in ('star', 'die'):
        (root / name).mkdir(parents=True)
        image = np.random.default_rng(len(name)).integers(
            0, 255, (16, 16, 3), np.uint8
        )
        cv2.imwrite(str(root / name / '0.png'), image)
    zero_shot = dict(
        custom_hooks=[dict(type='DITOZeroShotHook', templates=['a {}'])],
        val_dataloader=dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='image_text_collate'),
            dataset=dict(type='DITOFolderDataset', root=str(root), size=16),
        ),
        val_evaluator=dict(type='DITOZeroShotMetric'),
        val_cfg=dict(type='ValLoop'),
    )
    found = []
    for folder, batch_size in ((tmp_path / 'one', 6), (tmp_path / 'two', 3)):
        config = cfg(data, folder, batch_size, **zero_shot)
        config['train_cfg'].update(max_iters=3, val_interval=3)
        if batch_size == 6:
            train(config)
        else:
            Forked(train_sharded, config, ranks=2, folder=tmp_path).join()
        lines = next(folder.glob('*/vis_data/scalars.json')).read_text()
        found.append(
            [json.loads(x) for x in lines.splitlines() if 'top1' in x]
        )
    assert len(found[0]) == 1
    keys = [k for k in found[0][0] if 'zero_shot' in k]
    assert keys and all(found[0][0][k] == found[1][0][k] for k in keys)


def fails(config, **strategy):
    with pytest.raises(ValueError) as error:
        train_sharded(config, **strategy)
    Path(config['work_dir']).with_suffix('.error').write_text(str(error.value))


def test_clear_errors(tmp_path, data):
    config = cfg(data, tmp_path / 'a', 3)
    Forked(fails, config, ranks=2, folder=tmp_path, shard_size=3).join()
    assert (
        'shard_size=3 does not divide the 2'
        in (tmp_path / 'a.error').read_text()
    )
    config = cfg(
        data, tmp_path / 'b', 3, custom_hooks=[dict(type='DITOEMAHook')]
    )
    Forked(fails, config, ranks=2, folder=tmp_path).join()
    assert (
        'cannot average sharded parameters'
        in (tmp_path / 'b.error').read_text()
    )


def test_needs_a_launcher():
    with pytest.raises(ValueError, match='start tools/dist_train.sh CONFIG 1'):
        DITOFSDPStrategy._mesh(None)  # before anything of it is read


def test_the_config_of_vit_l():
    plain = Config.fromfile(PAPER / 'clip_vitl16_laion2b.py')
    sharded = Config.fromfile(PAPER / 'clip_vitl16_laion2b_fsdp.py')
    assert sharded.runner_type == 'DITOFlexibleRunner'
    assert sharded.strategy.type == 'DITOFSDPStrategy'
    for key in ('model', 'optim_wrapper', 'train_cfg', 'param_scheduler'):
        assert sharded[key] == plain[key]


def train_bfloat16(config):
    config['optim_wrapper']['type'] = 'DITOBF16OptimWrapper'
    train_sharded(config, param_dtype='bfloat16')


def test_bfloat16_parameters(tmp_path, data):
    exact, rough = tmp_path / 'exact', tmp_path / 'rough'
    train(cfg(data, exact))
    Forked(
        train_bfloat16, cfg(data, rough, 3), ranks=2, folder=tmp_path
    ).join()
    losses = logged(exact, 'loss'), logged(rough, 'loss')
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[1] != losses[0]
    state = whole(rough)['state_dict']
    assert all(v.dtype != torch.bfloat16 for v in state.values())
