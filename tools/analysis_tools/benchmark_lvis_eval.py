# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Time LVIS evaluation, loading included, against the lvis package.

Random federated data of LVIS's shape (1,203 categories, about 12 objects an
image) is written to files, and each evaluator reads and evaluates the same
files, turn by turn. All figures must agree. The last line is JSON.

Example:
    python tools/analysis_tools/benchmark_lvis_eval.py --images 400
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pycocotools.mask as mask_utils

from dito.evaluation import LVISDetections, LVISGroundTruth, evaluate_lvis
from dito.evaluation.average_precision import summarize_lvis

SIZE = (480, 640)
_NEVER = (np.inf, np.inf)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Time LVIS evaluation against the lvis package.'
    )
    add = parser.add_argument
    add('--images', type=int, default=400, help='number of images')
    add('--dets', type=int, default=300, help='detections per image')
    add('--categories', type=int, default=1203, help='number of categories')
    add('--iou-type', choices=('bbox', 'segm'), default='bbox')
    add('--repeat', type=int, default=1, help='runs of each; the best counts')
    add('--seed', type=int, default=0, help='seed of the data')
    add(
        '--skip-faster',
        action='store_true',
        help='do not time plain faster-coco-eval',
    )
    return parser.parse_args()


def random_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    """Boxes x, y, w, h inside the image, shape (number, 4)."""
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (number, 2)))
    corner = rng.uniform(0, 1, (number, 2)) * (np.array(SIZE[::-1]) - sides)
    return np.round(np.concatenate([corner, sides], axis=1), 2)


def make_ground_truth(
    rng: np.random.Generator, num_images: int, num_categories: int
) -> dict:
    """Images with 1 to 6 categories of 1 to 8 objects, 5 to 15 absent."""
    categories = [
        dict(id=k + 1, name=f'name{k}', frequency=str(rng.choice(list('rcf'))))
        for k in range(num_categories)
    ]
    images: list[dict] = []
    annotations: list[dict] = []
    for i in range(1, num_images + 1):
        drawn = rng.permutation(num_categories)[:21] + 1
        present = drawn[: rng.integers(1, 7)].tolist()
        absent = drawn[6 : rng.integers(11, 22)].tolist()
        images.append(
            dict(
                id=i,
                height=SIZE[0],
                width=SIZE[1],
                neg_category_ids=absent,
                not_exhaustive_category_ids=present[:1] if i % 4 == 0 else [],
            )
        )
        for category in present:
            for box in random_boxes(rng, rng.integers(1, 9)).tolist():
                x, y, w, h = box
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=i,
                        category_id=category,
                        bbox=box,
                        area=w * h,
                        segmentation=[polygon],
                    )
                )
    return dict(images=images, categories=categories, annotations=annotations)


def make_results(
    rng: np.random.Generator, content: dict, dets: int, with_masks: bool
) -> list[dict]:
    """Detections: half near an object, the others anywhere, of any class."""
    by_image: dict[int, list[dict]] = {}
    for ann in content['annotations']:
        by_image.setdefault(ann['image_id'], []).append(ann)
    results = []
    for image in content['images']:
        own = by_image[image['id']]
        boxes = random_boxes(rng, dets)
        category = rng.integers(1, len(content['categories']) + 1, dets)
        for j in np.flatnonzero(rng.random(dets) < 0.5):
            near = own[rng.integers(len(own))]
            boxes[j] = np.array(near['bbox']) * rng.uniform(0.9, 1.1, 4)
            category[j] = near['category_id']
        # What lies outside has an empty mask, which plain faster-coco-eval
        # counts and the lvis package does not.
        boxes[:, :2] = np.minimum(boxes[:, :2], np.array(SIZE[::-1]) - 2)
        scores = rng.random(dets).astype(np.float32)
        for j in range(dets):
            result = dict(
                image_id=image['id'],
                category_id=int(category[j]),
                score=float(scores[j]),
            )
            if with_masks:
                rle = mask_utils.frPyObjects(boxes[j : j + 1], *SIZE)[0]
                rle['counts'] = rle['counts'].decode()
                result['segmentation'] = rle
            else:
                result['bbox'] = boxes[j].tolist()
            results.append(result)
    return results


def run_ours(gt: str, dt: str, iou_type: str) -> dict[str, float]:
    """This package."""
    truth = LVISGroundTruth.from_file(gt)
    detections = LVISDetections.from_file(dt, truth.images, truth.categories)
    output = evaluate_lvis(truth, detections, iou_type)
    novel = np.array([f == 'r' for f in truth.frequency])
    return summarize_lvis(output, truth.frequency, novel)


def run_reference(gt: str, dt: str, iou_type: str) -> dict[str, float]:
    """The lvis package; 0.5.3 needs the removed alias ``np.float``."""
    from lvis import LVISEval

    missing = 'float' not in vars(np)
    if missing:
        np.float = float
    try:
        run = LVISEval(gt, dt, iou_type)
        run.run()
    finally:
        if missing:
            del np.float
    return dict(run.get_results())


def run_faster(gt: str, dt: str, iou_type: str) -> dict[str, float]:
    """Plain faster-coco-eval in its LVIS mode."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(gt)
    run = COCOeval_faster(truth, truth.loadRes(dt), iou_type, lvis_style=True)
    run.params.maxDets = [300]
    run.run()
    names = dict(AP='AP_all', AP50='AP_50', AP75='AP_75')
    names.update({name: name for name in ('APr', 'APc', 'APf')})
    return {ours: run.stats_as_dict[theirs] for ours, theirs in names.items()}


def measure(
    runs: dict[str, Callable], repeats: int, *args: str
) -> dict[str, tuple]:
    """Best wall and processor seconds, and figures, turn by turn."""
    best: dict[str, tuple] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            with open(os.devnull, 'w') as silent:
                with contextlib.redirect_stdout(silent):
                    start = time.perf_counter(), time.process_time()
                    figures = run(*args)
                    wall = time.perf_counter() - start[0]
                    cpu = time.process_time() - start[1]
            wall, cpu = np.minimum((wall, cpu), best.get(name, _NEVER)[:2])
            best[name] = (wall, cpu, figures)
    return best


def main() -> None:
    """Make the data, time the evaluators and print one JSON line."""
    args = parse_args()
    rng = np.random.default_rng(args.seed)
    content = make_ground_truth(rng, args.images, args.categories)
    results = make_results(rng, content, args.dets, args.iou_type == 'segm')
    runs = dict(dito=run_ours, lvis=run_reference)
    if not args.skip_faster:
        runs['faster'] = run_faster
    with tempfile.TemporaryDirectory() as folder:
        gt, dt = (os.path.join(folder, n) for n in ('gt.json', 'dt.json'))
        for path, data in ((gt, content), (dt, results)):
            with open(path, 'w') as file:
                json.dump(data, file)
        best = measure(runs, args.repeat, gt, dt, args.iou_type)
    ours = best['dito'][2]
    error = max(
        abs(ours[name] - value)
        for _, _, figures in best.values()
        for name, value in figures.items()
    )
    line = dict(
        benchmark='lvis_eval',
        iou_type=args.iou_type,
        images=args.images,
        dets=args.dets,
        categories=args.categories,
        **{f'{name}_s': round(times[0], 3) for name, times in best.items()},
        ratio=round(best['lvis'][0] / best['dito'][0], 2),
        cpu_ratio=round(best['lvis'][1] / best['dito'][1], 2),
        max_error=error,
        AP=ours['AP'],
    )
    print(json.dumps(line))
    if error > 1e-6:
        raise SystemExit(f'the figures differ by {error:.3g}')


if __name__ == '__main__':
    main()
