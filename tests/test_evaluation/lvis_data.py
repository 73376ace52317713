# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Random federated data: objects, absent and half-annotated categories."""

import logging

import numpy as np
import pycocotools.mask as mask_utils


def encode(box, height, width):
    """RLE of an ellipse in a box x, y, w, h."""
    y, x = np.mgrid[:height, :width] + 0.5
    cx, cy = box[0] + box[2] / 2, box[1] + box[3] / 2
    inside = ((x - cx) / (box[2] / 2 + 1e-6)) ** 2
    inside = inside + ((y - cy) / (box[3] / 2 + 1e-6)) ** 2 <= 1
    rle = mask_utils.encode(np.asfortranarray(inside.astype(np.uint8)))
    return dict(size=rle['size'], counts=rle['counts'].decode())


def _random_box(rng, size):
    """A box on a coarse grid, so that overlaps and equal boxes are common."""
    width, height = rng.choice([4, 8, 12, 40, 60, 100], 2)
    x, y = rng.integers(0, max(size // 8, 1), 2) * 8
    return [float(x), float(y), float(width), float(height)]


def make_ground_truth(rng, num_images=12, num_categories=8, size=160):
    categories = [
        dict(id=10 + 3 * k, name=f'name{k}', frequency='rcf'[k % 3])
        for k in range(num_categories)
    ]
    ids = [category['id'] for category in categories]
    images, annotations = [], []
    for i in range(num_images):
        present = rng.choice(ids, rng.integers(0, 4), replace=False).tolist()
        if i == 0:
            present = []
        rest = [k for k in ids if k not in present]
        images.append(
            dict(
                id=1000 - 7 * i,
                width=size,
                height=size,
                neg_category_ids=rng.permutation(rest)[:2].tolist(),
                not_exhaustive_category_ids=[
                    k for k in present if rng.random() < 0.3
                ],
            )
        )
        for category in present:
            for _ in range(rng.integers(1, 6)):
                box = _random_box(rng, size)
                mask = encode(box, size, size)
                if rng.random() < 0.5:
                    x, y, w, h = box
                    mask = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=1000 - 7 * i,
                        category_id=category,
                        bbox=box,
                        area=box[2] * box[3] * float(rng.choice([1, 0.7])),
                        segmentation=mask,
                    )
                )
    return dict(images=images, categories=categories, annotations=annotations)


def make_results(rng, content, per_image=40, size=160):
    """Objects moved a little, and noise; many scores are equal."""
    ids = [category['id'] for category in content['categories']]
    results = []
    for image in content['images'][:-1]:
        own = [
            ann
            for ann in content['annotations']
            if ann['image_id'] == image['id']
        ]
        for _ in range(per_image):
            if own and rng.random() < 0.7:
                near = own[rng.integers(len(own))]
                box = np.array(near['bbox'])
                box[:2] += rng.integers(-4, 5, 2) * rng.integers(0, 2)
                box[2:] += rng.integers(-4, 5, 2) * rng.integers(0, 2)
                category = near['category_id']
            else:
                box = np.array(_random_box(rng, size))
                category = int(rng.choice(ids))
            box[2:] = np.maximum(box[2:], 0)
            results.append(
                dict(
                    image_id=image['id'],
                    category_id=category,
                    score=float(np.float32(rng.integers(1, 12) / 12)),
                    bbox=box.tolist(),
                    segmentation=encode(box, size, size),
                )
            )
    return [results[i] for i in rng.permutation(len(results))]


def best_of_images(results, number):
    """The best results of each image; of equal ones the first."""
    best = []
    for image in dict.fromkeys(r['image_id'] for r in results):
        own = [r for r in results if r['image_id'] == image]
        best += sorted(own, key=lambda r: -r['score'])[:number]
    return best


def run_lvis(content, results, iou_type):
    """Precision (T, 101, K, A) and recall (T, K, A) of the lvis package."""
    from lvis import LVIS, LVISEval, LVISResults

    truth = LVIS.__new__(LVIS)
    truth.logger = logging.getLogger('lvis')
    truth.dataset = content
    truth._create_index()
    for result in results:
        result.pop('segmentation' if iou_type == 'bbox' else 'bbox', None)
    # Already limited: its own limit ends with equal scores.
    run = LVISEval(truth, LVISResults(truth, results, max_dets=-1), iou_type)
    run.evaluate()
    had_alias = 'float' in vars(np)
    # lvis 0.5.3 needs what numpy 1.24 removed.
    np.float = float
    try:
        run.accumulate()
    finally:
        if not had_alias:
            del np.float
    return run.eval['precision'], run.eval['recall']
