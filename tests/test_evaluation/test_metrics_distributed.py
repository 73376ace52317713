# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Two processes that share the images give the figures of one."""

import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lvis_data import make_ground_truth, make_results

from dito.evaluation import DITOCocoMetric, DITOLVISMetric

WORLD = 2


def build(kind, path, content):
    metric = dict(lvis=DITOLVISMetric, coco=DITOCocoMetric)[kind](
        ann_file=path, metric=['bbox', 'segm']
    )
    metric.dataset_meta = dict(
        classes=[cat['name'] for cat in content['categories']],
        novel_classes=['name0', 'name3'],
    )
    return metric


def make_sample(content, results, index):
    image = content['images'][index]
    own = [r for r in results if r['image_id'] == image['id']]
    boxes = np.array([r['bbox'] for r in own]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    pred = dict(
        bboxes=torch.tensor(boxes, dtype=torch.float32),
        scores=torch.tensor([r['score'] for r in own]),
        labels=torch.tensor(
            [(r['category_id'] - 10) // 3 for r in own], dtype=torch.long
        ),
        masks=[r['segmentation'] for r in own],
    )
    return dict(img_id=image['id'], ori_shape=(160, 160), pred_instances=pred)


def work(rank, kind, path, content, results, folder):
    """One of the processes: every second image, the last one padded."""
    # Without this gloo looks the host's name up, which can take long.
    os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/meeting',
        rank=rank,
        world_size=WORLD,
    )
    number = len(content['images'])
    share = [i % number for i in range(rank, number + number % WORLD, WORLD)]
    metric = build(kind, path, content)
    for index in share:
        metric.process({}, [make_sample(content, results, index)])
    figures = metric.evaluate(number)
    with open(f'{folder}/rank{rank}.pkl', 'wb') as file:
        pickle.dump((len(share), figures), file)
    dist.destroy_process_group()


@pytest.mark.parametrize('kind', ['lvis', 'coco'])
def test_two_processes_equal_one(tmp_path, kind):
    rng = np.random.default_rng(0)
    content = make_ground_truth(rng, num_images=13)
    for ann in content['annotations']:
        ann['iscrowd'] = 0
    results = make_results(rng, content)
    path = tmp_path / 'val.json'
    path.write_text(json.dumps(content))
    context = multiprocessing.get_context('fork')
    args = (kind, str(path), content, results, str(tmp_path))
    workers = [
        context.Process(target=work, args=(rank, *args))
        for rank in range(WORLD)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    outputs = [
        pickle.loads((tmp_path / f'rank{rank}.pkl').read_bytes())
        for rank in range(WORLD)
    ]
    assert [share for share, _ in outputs] == [7, 7]
    single = build(kind, str(path), content)
    for index in range(13):
        single.process({}, [make_sample(content, results, index)])
    expected = single.evaluate(13)
    assert 0 < expected[f'{kind}/segm_AP'] < 1
    assert outputs[0][1] == expected
    # The figures reach every process, for hooks that act on them.
    assert outputs[1][1] == expected
