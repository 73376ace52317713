# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Zero-shot evaluation on several sets, in one process and in two."""

import json
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.runner import Runner
from pretrain_files import clip_model, runner_cfg, write_data

KINDS = (
    'zero_shot/all_top1',
    'zero_shot/base_top5',
    'imagenet/top1',
    'retrieval/i2t_R@1',
    'retrieval/t2i_R@10',
    'retrieval/mean_R',
)


def loader(dataset, batch_size=3):
    # 20 pairs and 5 images are no multiple of 3 x 2: some ranks repeat one.
    return dict(
        batch_size=batch_size,
        num_workers=0,
        dataset=dataset,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='image_text_collate'),
    )


def multi_cfg(root, name, **kwargs):
    cfg = runner_cfg(
        root, root / name, clip_model(), max_iters=20, val=True, **kwargs
    )
    pictures = dict(
        type='DITOClassificationDataset',
        size=16,
        dataset=dict(type='CustomDataset', data_root=str(root / 'classes')),
    )
    pairs = dict(
        type='DITORetrievalDataset', size=16, shards=str(root / '03.tar')
    )
    cfg['val_cfg'] = dict(
        type='DITOMultiValLoop',
        extra=[
            dict(
                dataloader=loader(pictures),
                evaluator=dict(
                    type='mmpretrain.Accuracy', topk=(1, 3), prefix='imagenet'
                ),
            ),
            dict(
                dataloader=loader(pairs),
                evaluator=dict(type='DITORetrievalMetric'),
            ),
        ],
    )
    cfg.setdefault('default_hooks', {})['evaluation_report'] = dict(
        type='DITOEvaluationReportHook'
    )
    return cfg


def evaluate(root, name, **kwargs):
    """Metrics of one model, trained for a while where it is alone."""
    cfg = multi_cfg(root, name, **kwargs)
    if (root / 'model.pth').exists():
        cfg['load_from'] = str(root / 'model.pth')
        runner = Runner(**cfg)
        runner.load_or_resume()
        return runner.val_loop.run()
    runner = Runner(**cfg)
    runner.train()
    torch.save(runner.model.state_dict(), root / 'model.pth')
    hub = runner.message_hub
    logged = {k: hub.get_scalar(f'val/{k}').current() for k in KINDS}
    metrics = runner.val_loop.run()
    assert {k: metrics[k] for k in KINDS} == pytest.approx(logged)
    return metrics


def worker(rank, root):
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)  # mmengine asks for it
    dist.init_process_group(
        'gloo', init_method=f'file://{root}/init', rank=rank, world_size=2
    )
    metrics = evaluate(
        root,
        'two',
        launcher='pytorch',
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None
            )
        ),
    )
    torch.save(metrics, root / f'{rank}.pt')
    dist.destroy_process_group()


def test_two_processes_measure_as_one(tmp_path):
    write_data(tmp_path)
    one = evaluate(tmp_path, 'one')
    assert set(KINDS) <= set(one)
    # Five classes, 20 pairs of five captions: colours are being learnt.
    assert one['zero_shot/all_top1'] == one['imagenet/top1'] >= 40
    assert one['retrieval/i2t_R@1'] >= 40 and one['retrieval/t2i_R@10'] == 100
    mp.start_processes(worker, (tmp_path,), nprocs=2, start_method='fork')
    for rank in (0, 1):
        two = torch.load(tmp_path / f'{rank}.pt')
        assert two.keys() == one.keys()
        for name, value in one.items():
            assert two[name] == pytest.approx(value), name


def test_reports_of_all_sets(tmp_path):
    write_data(tmp_path)
    Runner(**multi_cfg(tmp_path, 'one')).train()
    (path,) = tmp_path.glob('one/*/evaluation_iter_20.json')
    zero_shot, imagenet, pairs = json.loads(path.read_text())['results']
    found = zero_shot['protocol']
    assert found['split'] == 'classes' and found['images'] == 5
    assert found['checkpoint'] == 'iteration 20 of a training'
    assert len(found['vocabulary_sha256']) == 64
    # The library's metric has figures only.
    assert 'top1' in imagenet['figures'] and 'protocol' not in imagenet
    assert pairs['protocol']['split'] == '03.tar'
    assert pairs['protocol']['images'] == 20
    # At that moment the vocabulary is that of the first set.
    assert 'vocabulary_sha256' not in pairs['protocol']


def test_wrong_sets_are_named(tmp_path):
    write_data(tmp_path)
    cfg = multi_cfg(tmp_path, 'a')
    cfg['val_cfg']['extra'][0].pop('evaluator')
    with pytest.raises(ValueError, match=r"extra\[0\] has \['dataloader'\]"):
        Runner(**cfg).val_loop  # noqa: B018
    cfg = multi_cfg(tmp_path, 'b')
    cfg['val_cfg']['extra'] = [
        dict(dataloader=cfg['val_dataloader'], evaluator=cfg['val_evaluator'])
    ]
    with pytest.raises(ValueError, match="different 'prefix'"):
        Runner(**cfg).val_loop.run()
