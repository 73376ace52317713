# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Memory of an LVIS evaluation against the number of images.

Feeds DITOLVISMetric random detections with masks, image by image, as a
detector would, and prints one JSON line: memory held while they arrive
(Python's and numpy's own, by tracemalloc), and the largest resident memory
above that before the first image.

Example:
    python tools/analysis_tools/benchmark_metric_memory.py --images 2000
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils

from dito.evaluation import DITOLVISMetric

sys.path.insert(0, str(Path(__file__).parent))

import benchmark_lvis_eval as data  # noqa: E402
from benchmark_postprocessing import peak_kb  # noqa: E402


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Memory of an LVIS evaluation.'
    )
    add = parser.add_argument
    add('--images', type=int, default=2000)
    add('--dets', type=int, default=300, help='detections per image')
    add(
        '--categories',
        type=int,
        default=60,
        help='few: a third of the detections is then judged, and kept',
    )
    add('--fixed', action='store_true', help='fixed AP too: keeps all')
    add('--no-trace', action='store_true', help='without tracemalloc, faster')
    add('--seed', type=int, default=0)
    return parser.parse_args()


def predictions(rng: np.random.Generator, args: argparse.Namespace) -> dict:
    """Detections of one image with masks as RLE."""
    boxes = data.random_boxes(rng, args.dets)
    masks = [
        mask_utils.frPyObjects(boxes[j : j + 1], *data.SIZE)[0]
        for j in range(args.dets)
    ]
    boxes[:, 2:] += boxes[:, :2]
    return dict(
        bboxes=boxes.astype(np.float32),
        scores=rng.random(args.dets).astype(np.float32),
        labels=rng.integers(0, args.categories, args.dets),
        masks=masks,
    )


def measure(args: argparse.Namespace, folder: str) -> dict[str, float | None]:
    """Feed and evaluate."""
    rng = np.random.default_rng(args.seed)
    content = data.make_ground_truth(rng, args.images, args.categories)
    path = os.path.join(folder, 'gt.json')
    with open(path, 'w') as file:
        json.dump(content, file)
    images = [image['id'] for image in content['images']]
    classes = tuple(c['name'] for c in content['categories'])
    del content
    metric = DITOLVISMetric(
        path,
        ['bbox', 'segm'],
        protocols=['standard', 'fixed'] if args.fixed else 'standard',
    )
    metric.dataset_meta = dict(classes=classes)
    # Reads the annotations, which are no part of what is measured.
    _ = metric.ground_truth.judged_keys, metric._label_to_category
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')
    before = peak_kb()
    if not args.no_trace:
        tracemalloc.start()
    for image in images:
        metric.process(
            {}, [dict(img_id=image, pred_instances=predictions(rng, args))]
        )
    held = None
    if not args.no_trace:
        held = round(tracemalloc.get_traced_memory()[0] / 2**20, 2)
        tracemalloc.stop()
    arrived = peak_kb()
    start = time.process_time()
    with open(os.devnull, 'w') as silent, contextlib.redirect_stdout(silent):
        metric.evaluate(len(images))
    return dict(
        held_mb=held,
        rss_arriving_mb=round((arrived - before) / 1024, 1),
        rss_evaluating_mb=round((peak_kb() - before) / 1024, 1),
        evaluation_s=round(time.process_time() - start, 1),
    )


def main() -> None:
    """Print one JSON line."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(args, folder)
    print(
        json.dumps(
            dict(
                benchmark='metric_memory',
                images=args.images,
                dets=args.dets,
                fixed=args.fixed,
                **figures,
            )
        )
    )


if __name__ == '__main__':
    main()
